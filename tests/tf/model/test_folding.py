"""Weights that are computed of constants are constants, however much they grow by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.operators.discovery import find_operators
from tests.tf.quantizing import graph_of, random, source_of
from tests.tf.small_models import WIDTH, chain_data

X = chain_data()
FEATURES = 1024
BIG = random(WIDTH, FEATURES)


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(lambda: tf.cast(tf.constant(BIG, tf.float16), tf.float32), id="half precision"),
        pytest.param(lambda: tf.cast(tf.constant((BIG * 30).astype(np.int8)), tf.float32) * 0.03, id="integers"),
        pytest.param(lambda: BIG + random(WIDTH, 4) @ tf.constant(random(4, FEATURES)), id="low-rank adapter"),
        pytest.param(lambda: BIG * tf.math.rsqrt(tf.reduce_sum(tf.constant(BIG) ** 2, 0)), id="weight norm"),
        pytest.param(lambda: tf.tile(tf.constant(BIG[:, :8]), [1, FEATURES // 8]), id="tiled"),
        pytest.param(lambda: tf.concat(tf.split(tf.constant(BIG), 4, axis=1)[::-1], axis=1), id="split and joined"),
    ],
)
def test_a_computed_weight_is_an_operator(weight: Callable[[], Any]) -> None:
    variable = tf.Variable(1.0)
    source = source_of(lambda x: x @ (weight() * variable), tf.TensorSpec([None, WIDTH], name="x"))
    operators = find_operators(graph_of(source))
    assert [each.features for each in operators.found.values()] == [FEATURES]
    assert not operators.skipped
    np.testing.assert_allclose(SignatureModel(source)(X), X @ weight(), rtol=1e-3, atol=1e-3)


def test_random_weights_stay_random() -> None:
    source = source_of(lambda x: x @ tf.random.normal([WIDTH, 4]), tf.TensorSpec([None, WIDTH], name="x"))
    assert not find_operators(graph_of(source)).found
    model = SignatureModel(source)
    assert not np.array_equal(model(X), model(X))
