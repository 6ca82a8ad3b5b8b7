"""Corrections of bias and weight from the argument to the SavedModel's graph, and its recipe."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from tests.tf.scenarios.test_recipe import assert_same
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

BOTH = ("fast_bias_correction", "weight_correction")
# For size: what is fast enough depends on the machine.
QUIET = {"progress": False, "sampling_sizes": [32], "objective": "modelsize", "smoothquant_args": {"alpha": 0.5}}

LAYERS = {
    "Dense": lambda x: layers.Dense(4)(x),
    "Conv2D": lambda x: layers.Conv2D(4, 3, use_bias=False)(x),
    "groups": lambda x: layers.Conv2D(4, 3, groups=2)(x),
    "pointwise": lambda x: layers.Conv2D(4, 1, activation="relu")(x),
    "depthwise": lambda x: layers.Conv2D(4, 1)(layers.ReLU()(layers.DepthwiseConv2D(3, use_bias=False)(x))),
}


def data(shape):
    """Far from zero, so that the mean of the input weighs more than its spread."""
    return np.random.default_rng(1).normal(10, 1, (32, *shape)).astype(np.float32)


@pytest.fixture(scope="module", params=list(LAYERS))
def case(request):
    """A model, data, and the models tuned without corrections, with one, and with both."""
    shape = (6,) if request.param == "Dense" else (8, 8, 6)
    inputs = keras.Input(shape, name="x")
    model = randomized(keras.Model(inputs, LAYERS[request.param](inputs)), 0)
    tuned = [
        tf_ext.autotune(model, data(shape), recipes=dict(zip(BOTH, choices, strict=True)), **QUIET)
        for choices in ((False, False), (True, False), (True, True))
    ]
    return model, data(shape), tuned


def test_the_mean_output_comes_closer_with_the_same_operators(case):
    model, x, tuned = case
    expected = np.asarray(model(x))

    def error(each):
        difference = np.asarray(tf_ext.convert(each)(x)) - expected
        return np.abs(difference.mean(tuple(range(difference.ndim - 1)))).sum()

    off, bias, both = map(error, tuned)
    assert bias < 0.5 * off
    assert both < 0.5 * off
    kinds = [
        Counter(node.op for signature in each.model.signatures.values() for node in signature.graph_def.node)
        for each in tuned
    ]
    for kind in kinds:
        del kind["Const"]
    assert kinds[0] == kinds[1] == kinds[2]


def test_the_result_says_it(case):
    result = case[2][2].tuning_result
    quantized = [each for each in result.operators if each.approach is not None]
    assert quantized
    assert all(each.corrections == BOTH for each in quantized)
    assert case[2][0].tuning_result.corrections == ()


def test_the_recipe_gives_the_same_graph(case, tmp_path):
    model, _, tuned = case
    tuned[2].recipe.save(tmp_path / "recipe.yaml")
    assert_same(tuned[2], tf_ext.apply_recipe(model, tmp_path / "recipe.yaml"))


def test_a_symmetric_input_with_negative_values_is_corrected_by_the_integers_it_becomes():
    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    x = np.random.default_rng(1).normal(0, 1, (32, 6)).astype(np.float32)
    rule = {"MatMul": {"activation": {"scheme": ["sym"]}}}
    model = tf.function(lambda x: x @ weight, input_signature=[tf.TensorSpec([None, 6], name="x")], autograph=False)
    tuned = tf_ext.autotune(
        model.get_concrete_function(), x, op_type_dict=rule, recipes={"fast_bias_correction": True}, **QUIET
    )
    (operator,) = tuned.recipe.operators.values()
    assert operator.config.corrections == ("fast_bias_correction",)
    assert signal_to_noise_db(x @ weight, tf_ext.convert(tuned)(x).numpy()) > 25
