"""Products of weights that stay in fp32 are listed, with the reason and their share of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from tests.tf.quantizing import random
from tests.tf.small_models import WIDTH, WithControlFlow, chain_data

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

DATA = chain_data(16)
SQUARE = random(WIDTH, WIDTH) / 6


def compiled(x: Any) -> Any:
    return tf.function(lambda y: y @ SQUARE, jit_compile=True, autograph=False)(x)


def condition(x: Any) -> Any:
    return tf.while_loop(lambda y: tf.reduce_sum(y @ SQUARE) > 1e9, lambda y: (-y,), (x,))


def mapped(x: Any) -> Any:
    return tf.map_fn(lambda row: tf.linalg.matvec(SQUARE, row), x)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(lambda x: tf.reduce_sum(x[:, :, None] * SQUARE, 1), "Mul and Sum", id="a sum of products"),
        pytest.param(lambda x: tf.transpose(SQUARE @ tf.transpose(x)), "first operand", id="weight first"),
        pytest.param(
            lambda x: tf.einsum("abc,bcd->abd", tf.reshape(x, [-1, 4, 8]), tf.reshape(SQUARE, [4, 8, 32])),
            "no integer kernel for Einsum",
            id="a matrix for each position",
        ),
        pytest.param(compiled, "XLA compiles", id="a compiled function"),
        pytest.param(mapped, "first operand", id="weight first in a loop"),
        pytest.param(condition, "condition of a loop", id="the condition of a loop"),
        pytest.param(
            lambda x: tf.cond(tf.reduce_sum(x) > 1e9, lambda: x @ SQUARE, lambda: x),
            "never had an element",
            id="a branch that is never taken",
        ),
    ],
)
def test_it_is_in_the_result_with_its_share(body: Callable[[Any], Any], words: str) -> None:
    weight = random(WIDTH, WIDTH, seed=1) / 6
    function = tf.function(
        lambda x: {"other": body(x), "product": x @ weight},
        input_signature=[tf.TensorSpec([None, WIDTH], name="x")],
        autograph=False,
    )
    tuned = tf_ext.autotune(function, DATA, progress=False)
    skipped = [each for each in tuned.tuning_result.operators if words in each.reason]
    assert len(skipped) == 1
    assert skipped[0].weight_share == pytest.approx(0.5)


def test_a_weight_that_a_loop_changes_is_none() -> None:
    def serve(x: Any) -> Any:
        step = lambda count, matrix: (count + 1, matrix @ matrix)  # noqa: E731
        return x @ SQUARE + tf.while_loop(lambda count, _: count < 2, step, (0, tf.constant(SQUARE)))[1][0]

    function = tf.function(serve, input_signature=[tf.TensorSpec([None, WIDTH], name="x")], autograph=False)
    tuned = tf_ext.autotune(function, DATA, progress=False)
    reasons = [each.reason for each in tuned.tuning_result.operators if "two activations" in each.reason]
    assert len(reasons) == 1
    assert "%" not in reasons[0]


def test_shares_are_those_of_the_whole_model() -> None:
    rules = {"(while|cond)/.*": {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}}
    tuned = tf_ext.autotune(WithControlFlow(), DATA, op_name_dict=rules, progress=False)
    shares = [each.weight_share for each in tuned.tuning_result.operators if each.approach is None]
    # 32 x 32 of 32 x 32 and 32 x 5: both read it, and it counts once.
    assert sorted(shares) == pytest.approx([0, 32 / 37])


def test_they_are_named_where_there_is_nothing_else() -> None:
    function = tf.function(compiled, input_signature=[tf.TensorSpec([None, WIDTH], name="x")], autograph=False)
    with pytest.raises(ModelError, match=r"nothing to quantize: .*XLA compiles.*without jit_compile=True.*100 %"):
        tf_ext.autotune(function, DATA, progress=False)
    plain = tf.function(lambda x: x @ SQUARE, input_signature=function.input_signature, autograph=False)
    assert [each.dtype for each in tf_ext.autotune(plain, DATA, progress=False).tuning_result.operators] == ["int8"]


def test_volumes_in_groups_are_not_told_to_leave_xla() -> None:
    """Outside of XLA TensorFlow has no kernel for them on a CPU."""
    model = keras.Sequential(
        [keras.Input((3, 4, 4, 4)), layers.Conv3D(4, 2, groups=2), layers.Flatten(), layers.Dense(8)]
    )
    data = [np.random.default_rng(0).normal(size=(2, 3, 4, 4, 4)).astype(np.float32)]
    (reason,) = [
        each.reason for each in tf_ext.autotune(model, data, progress=False).tuning_result.operators if each.reason
    ]
    assert "unless it convolves volumes in groups" in reason
