"""A model that is run several times in a loop, as a product in the body of one is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from inc_autotune.tf_ext.model import SignatureCallable, with_constants


def repeated(model: SignatureCallable, source: tf.Tensor, times: int) -> Callable[[], Any]:
    """A call that runs a model so often on the same input, each step of a loop once.

    Args:
        model: with one input, and float32 outputs.
        source: the input.
        times: how often.
    """

    def step(number: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (number + 1, *model.function(given[0]).values())

    given: list[tf.Tensor] = []

    def run(x: tf.Tensor) -> Any:
        given[:] = [x]
        return tf.while_loop(
            lambda number, *_: number < times,
            step,
            (tf.constant(0), *(tf.zeros([]) for _ in model.outputs)),
            shape_invariants=(tf.TensorShape([]), *(tf.TensorShape(None) for _ in model.outputs)),
        )

    spec = tf.TensorSpec(source.shape, source.dtype)
    traced = tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()
    return partial(with_constants(traced), source)
