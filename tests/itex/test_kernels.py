"""What Intel Extension for TensorFlow computes in integers, where `.ci/itex` has made an environment with it."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest

from benchmarks.tf.itex import integer_kernels, run
from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db

PYTHON = os.environ.get("INC_AUTOTUNE_ITEX_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="INC_AUTOTUNE_ITEX_PYTHON names no interpreter, see .ci/itex")


def convolutions():
    layers = keras.layers
    x = given = keras.Input((16, 16, 3), name="x")
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    y = layers.BatchNormalization()(layers.Conv2D(32, 3, padding="same", use_bias=False)(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(given, layers.Dense(8)(layers.GlobalAveragePooling2D()(x)))


def transformer():
    layers = keras.layers
    x = given = keras.Input((16, 64), name="x")
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
    y = layers.Dense(384, activation="gelu")(layers.LayerNormalization()(x))  # more channels than lie in a graph
    x = layers.Add()([x, layers.Dense(64)(y)])
    return keras.Model(given, layers.Dense(8)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize(
    ("build", "shape"), [(convolutions, (16, 16, 3)), (transformer, (16, 64))], ids=["convolutions", "transformer"]
)
def test_every_quantized_operator_runs_in_integers(build, shape, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    data = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32)
    tuned = tf_ext.autotune(model, data, None, backend="itex", progress=False)
    tf_ext.save(tuned, tmp_path / "int8")
    np.save(tmp_path / "inputs.npy", data)
    said = run(PYTHON, tmp_path / "inputs.npy", 1, [tmp_path / "int8"], ONEDNN_VERBOSE="1")
    quantized = [each.name for each in tuned.tuning_result.operators if each.dtype == "int8"]
    assert integer_kernels(said) == len(quantized) > 0
    assert signal_to_noise_db(np.asarray(model(data)), np.load(tmp_path / "int8.npy")) > 25
