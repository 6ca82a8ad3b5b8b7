"""Keras models that keep state, fix their batch or cannot be traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import random

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

X = random(4, 6, 8)


def recurrent(layer: Any, **arguments: Any) -> Any:
    return keras.Sequential([keras.Input(batch_shape=(4, 6, 8)), layer(16, **arguments), layers.Dense(5)])


@pytest.mark.parametrize("layer", [layers.GRU, layers.LSTM, layers.SimpleRNN])
def test_state_is_refused_and_the_remedy_works(layer: Any) -> None:
    model = recurrent(layer, stateful=True)
    with pytest.raises(ModelError, match=r"is stateful: .*stateful=False.*new.set_weights\(old.get_weights\(\)\)"):
        tf_ext.autotune(model, [X], progress=False)
    new = recurrent(layer)
    new.set_weights(model.get_weights())
    tuned = tf_ext.autotune(new, [X], progress=False)
    assert any(each.dtype == "int8" for each in tuned.tuning_result.operators)
    np.testing.assert_allclose(tf_ext.convert(tuned)(X), new(X), atol=0.1)


def test_state_that_is_given_and_returned_goes_on() -> None:
    given, state = keras.Input((6, 8), name="x"), keras.Input((16,), name="state")
    made, last = layers.GRU(16, return_state=True)(given, initial_state=state)
    model = keras.Model([given, state], [layers.Dense(5)(made), last])
    tuned = tf_ext.autotune(model, {"x": X, "state": random(4, 16)}, progress=False)
    assert any(each.dtype == "int8" for each in tuned.tuning_result.operators)


def test_state_in_a_saved_model_is_refused(tmp_path: Path) -> None:
    class Counting(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")], autograph=False)
        def __call__(self, x: Any) -> Any:
            return x + self.count.assign_add(1.0)

    tf.saved_model.save(Counting(), str(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"keeps state between calls.*stateful=False"):
        load_source(tmp_path / "model")


@keras.saving.register_keras_serializable("tests")
class FixedBatch(layers.Layer):
    """Works at a batch of four only."""

    def call(self, x: Any) -> Any:
        return tf.matmul(tf.eye(4), tf.reshape(tf.ensure_shape(x, [4, 6, 8]), [4, 48]))


def test_a_model_that_works_at_its_declared_batch_only() -> None:
    inputs = keras.Input(batch_shape=(4, 6, 8), name="x")
    model = keras.Model(inputs, layers.Dense(3)(FixedBatch()(inputs)))
    source = load_source(model)
    np.testing.assert_allclose(SignatureModel(source)(X), model(X), rtol=1e-4, atol=1e-5)


class Untraceable(layers.Layer):
    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any) -> Any:
        raise TypeError("no symbolic tensors here")


def test_a_model_that_cannot_be_traced() -> None:
    inputs = keras.Input((8,), name="x")
    model = keras.Model(inputs, layers.Dense(3)(Untraceable()(inputs)))
    with pytest.raises(ModelError, match="cannot trace this Keras model"):
        load_source(model)
