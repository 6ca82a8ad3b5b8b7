"""SmoothQuant as a change of the graph that keeps the function."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.emission.build import build_model
from inc_autotune.tf_ext.emission.smoothing import place_smoothing
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import SourceModel, load_source
from inc_autotune.tf_ext.target.choices import GraphChoices
from tests.tf.quantizing import random, source_of
from tests.tf.small_models import WIDTH, chain_data, dense_chain, randomized


def pre_norm(outliers=1.0):
    """LayerNormalizations whose outputs only products read, with outlier channels."""
    x = inputs = keras.Input((6, WIDTH), name="x")
    for _ in range(2):
        x = x + layers.Dense(WIDTH)(layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x)))
    model = randomized(keras.Model(inputs, layers.Dense(4)(layers.LayerNormalization()(x))))
    for layer in model.layers:
        if isinstance(layer, layers.LayerNormalization):
            gamma, beta = layer.get_weights()
            gamma[[3, 17]] *= outliers
            layer.set_weights([gamma, beta])
    return model


def sequences(samples=32, seed=1):
    return np.random.default_rng(seed).normal(size=(samples, 6, WIDTH)).astype(np.float32)


class Smoothed:
    """A calibrated model whose operators are all smoothed by one alpha."""

    def __init__(self, model, data, alpha=0.5, folding=True):
        self.source, self.data = model if isinstance(model, SourceModel) else load_source(model), data
        self.adaptor = TensorFlowAdaptor(choices=GraphChoices(folding=folding))
        self.adaptor.calibrate(Candidate(self.source), data, (100,))
        self.analysis = self.adaptor.analysis(Candidate(self.source))
        operators = self.adaptor.query_fw_capability(Candidate(self.source))["opwise"]
        self.plan = self.adaptor.plan(
            {
                "op": {operator: {**options[0], "alpha": alpha} for operator, options in operators.items()},
                "calib_iteration": 100,
            }
        )

    @property
    def placement(self):
        (graph,) = self.analysis.graphs.values()
        return place_smoothing(graph, self.analysis.operators, self.plan)

    def error_db(self, plan):
        """How far the model built by a plan is from the fp32 one, on other data."""
        model = Candidate(build_model(self.analysis, plan, WeightCache()))
        return signal_to_noise_db(Candidate(self.source).callable(self.data).numpy(), model.callable(self.data).numpy())


@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize(("model", "data"), [(pre_norm, sequences), (dense_chain, chain_data)])
def test_smoothing_in_float_keeps_the_function(model, data, folding):
    smoothed = Smoothed(model(), data(), folding=folding)
    assert smoothed.error_db(replace(smoothed.plan, configs={})) > 100


def test_scales_are_folded_into_normalizations_and_multiplied_elsewhere():
    placement = Smoothed(pre_norm(), sequences()).placement
    assert len(placement.constants) == 6  # gamma and beta of three normalizations
    assert len(placement.multiplied) == 2  # behind GELU
    assert not placement.operators


def test_scales_go_through_a_relu_into_the_product_before():
    smoothed = Smoothed(dense_chain(), chain_data(64))
    assert list(smoothed.placement.operators) == list(smoothed.analysis.operators)[:2]
    assert list(smoothed.placement.multiplied) == list(smoothed.analysis.operators)[:1]
    assert smoothed.error_db(smoothed.plan) > 30


def test_nothing_is_folded_where_another_reads_the_tensor():
    x = inputs = keras.Input((6, WIDTH), name="x")
    x = layers.LayerNormalization()(x)
    model = randomized(keras.Model(inputs, x + layers.Dense(WIDTH)(x)))
    placement = Smoothed(model, sequences()).placement
    assert len(placement.multiplied) == 1
    assert not placement.constants


def test_nothing_is_folded_where_the_tensor_is_an_output():
    x = inputs = keras.Input((6, WIDTH), name="x")
    x = layers.LayerNormalization()(x)
    model = randomized(keras.Model(inputs, {"hidden": x, "logits": layers.Dense(4)(x)}))
    assert len(Smoothed(model, sequences()).placement.multiplied) == 1


def test_one_multiplication_serves_all_readers_of_a_tensor():
    inputs = keras.Input((WIDTH,), name="x")
    model = randomized(keras.Model(inputs, layers.Dense(8)(inputs) + layers.Dense(8)(inputs)))
    smoothed = Smoothed(model, chain_data(64))
    built = build_model(smoothed.analysis, smoothed.plan, WeightCache())
    (signature,) = built.signatures.values()
    operators = [node.op for node in signature.graph_def.node]
    assert (operators.count("Mul"), operators.count("QuantizeV2")) == (1, 1)


def test_smoothing_pays_with_outliers():
    smoothed = Smoothed(pre_norm(outliers=60.0), sequences())
    plain = {name: config.with_alpha(None) for name, config in smoothed.plan.configs.items()}
    unsmoothed = smoothed.adaptor.plan(
        {
            "op": {(name, each.type): plain[name].to_dict() for name, each in smoothed.analysis.operators.items()},
            "calib_iteration": 100,
        }
    )
    assert smoothed.error_db(smoothed.plan) > smoothed.error_db(unsmoothed) + 5


def test_a_fixed_factor_before_a_product_takes_the_scale():
    factor, weight = np.linspace(0.5, 2, WIDTH, dtype=np.float32), np.eye(WIDTH, 8, dtype=np.float32)
    function = tf.function(
        lambda x: tf.tanh(x) * factor @ weight,
        input_signature=[tf.TensorSpec([None, WIDTH], name="x")],
        autograph=False,
    )
    smoothed = Smoothed(function.get_concrete_function(), chain_data(64))
    assert len(smoothed.placement.constants) == 1
    assert smoothed.error_db(replace(smoothed.plan, configs={})) > 100


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("folding", [True, False])
def test_factors_inside_an_integer_convolution_take_no_scale(size, folding):
    """They are part of its weight."""
    filters, factor = random(size, size, 8, 16) / size, np.r_[np.full(4, 20.0), np.full(12, 0.1)].astype(np.float32)
    shift, weight = random(16, seed=1), random(16, 8, seed=2)
    source = source_of(
        lambda x: (tf.nn.conv2d(x, filters, 1, "SAME") + shift) * factor @ weight,
        tf.TensorSpec((None, 6, 6, 8), name="x"),
    )
    smoothed = Smoothed(source, random(16, 6, 6, 8, seed=3), folding=folding)
    assert len(smoothed.placement.multiplied) == 1
    assert smoothed.error_db(smoothed.plan) > 30
