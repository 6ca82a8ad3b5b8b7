"""What an evaluation may not do to the models it is given."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.errors import DataError, EvaluationError
from inc_autotune.tf_ext.model import Candidate, load_source
from tests.tf.small_models import chain_data, dense_chain


@pytest.mark.parametrize("yields", [False, True])
def test_weights_written_in_place_are_noticed(yields):
    def evaluate(model):
        weight = model.weights[0]
        weight.assign(weight * 1.5)
        return iter([1.0, 1.0]) if yields else 1.0

    with pytest.raises(EvaluationError, match=r"wrote into a weight of shape \("):
        tf_ext.autotune(dense_chain(), chain_data(), evaluate, objective="modelsize", progress=False)


def two_by_two(batch=None):
    first, second = tf.keras.Input((3,), batch, name="a"), tf.keras.Input((3,), batch, name="b")
    return tf.keras.Model([first, second], [first + second, first - second])


@pytest.fixture(scope="module")
def single():
    inputs = tf.keras.Input((3,), name="a")
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(inputs))
    return model, Candidate(load_source(model)).callable


X = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "data",
    [
        X,
        {"a": X},
        tf.data.Dataset.from_tensor_slices(X).batch(16),
        tf.data.Dataset.from_tensor_slices((X, np.zeros(70))).batch(16),
        [(X[:40], np.zeros(40)), (X[40:], np.zeros(30))],
    ],
    ids=["array", "by name", "dataset", "with labels", "list of batches"],
)
def test_predict_gives_what_that_of_keras_gives(single, data):
    model, graphs = single
    expected = model.predict(X, verbose=0)
    predicted = graphs.predict(data, verbose=0)
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-6)


def test_predict_reads_steps_and_refuses_nothing(single):
    _, graphs = single
    assert graphs.predict(X, batch_size=8, steps=3).shape == (24, 2)
    for nothing in (X[:0], [], {"a": X[:0]}):
        with pytest.raises(DataError, match="there is no batch"):
            graphs.predict(nothing)


@pytest.mark.parametrize("batch", [None, 35])
def test_predict_of_several_inputs_and_outputs(batch):
    graphs = Candidate(load_source(two_by_two(batch))).callable
    for data in ([X, 2 * X], (X, 2 * X), {"b": 2 * X, "a": X}):
        total, difference = graphs.predict(data).values()
        np.testing.assert_allclose(total, 3 * X, rtol=1e-6)
        np.testing.assert_allclose(difference, -X, rtol=1e-6)


def test_an_evaluation_may_predict_and_is_told_what_there_is_else():
    data = chain_data()

    def evaluate(model):
        return float(np.mean(model.predict(data)))

    tuned = tf_ext.autotune(dense_chain(), data, evaluate, objective="modelsize", progress=False)
    assert np.isfinite(tf_ext.convert(tuned).predict(data)).all()
    with pytest.raises(EvaluationError, match=r"no attribute 'evaluate': .*model\.predict\(x\)"):
        tf_ext.autotune(dense_chain(), data, lambda model: model.evaluate(data), progress=False)
