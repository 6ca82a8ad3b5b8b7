"""Weights rounded by the second moments of their inputs, from calibration to the SavedModel's graph and its recipe."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.tf_ext.emission.routes import ROUTES
from inc_autotune.tf_ext.measurement.kernel_trial import KernelSupport
from tests.tf.scenarios.test_recipe import assert_same
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

# For size: what is fast enough depends on the machine.
QUIET = {"progress": False, "sampling_sizes": [96], "objective": "modelsize"}
FREE = {"fast_bias_correction": False, "weight_correction": False, "smooth_quant": False}

LAYERS = {
    "Dense": ((5, 16), lambda x: layers.Dense(24, activation="relu")(x)),
    "groups": ((9, 9, 16), lambda x: layers.Conv2D(8, 3, groups=2, dilation_rate=2)(x)),
    "depthwise": (
        (9, 9, 16),
        lambda x: layers.Conv2D(24, 1)(layers.ReLU()(layers.DepthwiseConv2D(3)(layers.Conv2D(16, 1)(x)))),
    ),
    "BatchNormalization": (
        (9, 9, 16),
        lambda x: layers.BatchNormalization(gamma_initializer=keras.initializers.RandomNormal(0, 1, 0))(
            layers.Conv2D(8, 3, strides=2, padding="same")(x)
        ),
    ),
}

RECURRENT = {
    "LSTM": ((6, 16), lambda x: layers.Bidirectional(layers.LSTM(12))(x)),
    "GRU": ((6, 16), lambda x: layers.GRU(12, return_sequences=True, reset_after=False)(x)),
    "unrolled": ((4, 16), lambda x: layers.SimpleRNN(12, unroll=True)(x)),
}
"""Whose steps multiply hidden states inside the body of a loop, or by one weight that each of them reads."""


def correlated(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Normal numbers with few directions among the channels, which come last."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(2, shape[-1]))
    values = generator.normal(size=(count, *shape[:-1], 2)) @ mixing
    return (values + 0.1 * generator.normal(size=values.shape)).astype(np.float32)


def capability(dtype: str) -> dict[str, object] | None:
    """Weights of another dtype, which TensorFlow simulates."""
    if dtype == "int8":
        return None
    weight = {"dtype": [dtype], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    option = {"weight": weight, "activation": activation}
    types = ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")
    return {dtype: {"static": dict.fromkeys(types, option)}}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "int8") for name in LAYERS), *((name, "int4") for name in (*LAYERS, *RECURRENT))],
)
def test_the_output_comes_closer_with_the_same_graph_and_the_recipe_holds_it(name, dtype, tmp_path):
    shape, layer = {**LAYERS, **RECURRENT}[name]
    inputs = keras.Input(shape, name="x")
    model = randomized(keras.Model(inputs, layer(inputs)), 0)
    nearest, rounded = (
        tf_ext.autotune(
            model,
            tf.data.Dataset.from_tensor_slices(correlated(shape, 96, seed=1)).batch(12),
            recipes={"weight_rounding": rounding, **FREE},
            op_type_dict={".*": {"weight": {"dtype": [dtype]}}},
            capability=capability(dtype),
            **QUIET,
        )
        for rounding in ("nearest", "second_moment")
    )
    unseen = correlated(shape, 32, seed=2)
    expected = np.asarray(model(unseen))
    errors = [float(((np.asarray(tf_ext.convert(each)(unseen)) - expected) ** 2).sum()) for each in (nearest, rounded)]
    assert errors[1] < (0.8 if dtype == "int4" else 1.0) * errors[0]
    operators = [each for each in rounded.tuning_result.operators if each.approach is not None]
    assert operators
    assert {each.rounding for each in operators} == {"second_moment"}
    rounded.recipe.save(tmp_path / "recipe.yaml")
    assert_same(rounded, tf_ext.apply_recipe(model, tmp_path / "recipe.yaml"))


def test_where_a_processor_takes_fewer_bits_than_the_recipe_says_weights_are_rounded_to_nearest(monkeypatch, caplog):
    """The steps are of a grid of 8 bits."""
    shape, layer = LAYERS["Dense"]
    inputs = keras.Input(shape, name="x")
    model = randomized(keras.Model(inputs, layer(inputs)), 0)
    support = "inc_autotune.tf_ext.{}.kernel_support"
    monkeypatch.setattr(support.format("adaptor"), KernelSupport)
    recipes = {"weight_rounding": "second_moment", **FREE}
    tuned = tf_ext.autotune(model, correlated(shape, 96, seed=1), recipes=recipes, **QUIET)
    (entry,) = (each for each in tuned.recipe.operators.values() if each.config.is_quantized)
    assert "rounding_steps" in entry.calibration
    monkeypatch.setattr(support.format("tuned_model"), lambda: KernelSupport(saturating=frozenset(ROUTES)))
    applied = tf_ext.apply_recipe(model, tuned.recipe)
    (entry,) = (each for each in applied.recipe.operators.values() if each.config.is_quantized)
    assert entry.calibration["reduce_range"]
    assert "rounding_steps" not in entry.calibration
    assert entry.config.rounding == "nearest"
    assert "7 bits are used, rounded to nearest" in caplog.text
