"""A tuned model declares the shapes that the fp32 model declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from tests.tf.quantizing import random
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def declared(directory: Path) -> list[list[int | None]]:
    outputs = tf.saved_model.load(str(directory)).signatures["serving_default"].structured_outputs
    return [outputs[name].shape.as_list() for name in sorted(outputs)]


@pytest.mark.parametrize(
    ("length", "body"),
    [
        pytest.param(24, layers.Dense(5), id="dense"),
        pytest.param(24, lambda x: layers.Dense(5)(layers.Dense(16, "relu")(x)), id="two dense"),
        pytest.param(24, layers.EinsumDense("abc,cde->abde", (24, 2, 5)), id="two dimensions"),
        pytest.param(24, layers.Conv1D(6, 3, activation="relu"), id="convolution"),
        pytest.param(24, lambda x: [layers.Dense(5)(x), layers.Flatten()(layers.Dense(3)(x))], id="two outputs"),
        pytest.param(24, lambda x: layers.MultiHeadAttention(2, 4)(x, x), id="attention"),
        pytest.param(None, layers.Dense(5), id="any length"),
    ],
)
@pytest.mark.parametrize("backend", ["default", "itex"])
def test_outputs_keep_their_shape(length: int | None, body: Callable[[Any], Any], backend: str, tmp_path: Path) -> None:
    inputs = keras.Input((length, 8), name="x")
    model = randomized(keras.Model(inputs, body(inputs)))
    model.export(tmp_path / "fp32", verbose=False)
    tuned = tf_ext.autotune(tmp_path / "fp32", random(16, 24, 8), backend=backend, progress=False)
    assert any(each.dtype == "int8" for each in tuned.tuning_result.operators)
    tf_ext.save(tuned, tmp_path / "int8")
    assert declared(tmp_path / "int8") == declared(tmp_path / "fp32")
