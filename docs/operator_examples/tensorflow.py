"""Operators of TensorFlow, each in a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source

from .example import Example

SAMPLES = 4
WIDTH = 16

NOTHING = "-"


def of(make: Callable[[], Any], *shape: int, dtype: str = "float32") -> Callable[[], Candidate]:
    """A Keras model of one layer that reads [batch, *shape]."""

    def build() -> Candidate:
        keras.utils.set_random_seed(0)
        inputs = keras.Input(shape, dtype=dtype, name="x")
        return Candidate(load_source(keras.Model(inputs, make()(inputs))))

    return build


class SelfAttention(layers.Layer):
    """Attention of a tensor to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 8)

    def build(self, shape: Any) -> None:
        """Build the attention."""
        self.attention.build(shape, shape)

    def call(self, x: Any) -> Any:
        """Attend."""
        return self.attention(x, x)


class Product(layers.Layer):
    """An Einsum with a weight."""

    def build(self, shape: Any) -> None:
        """Make the weight."""
        self.w = self.add_weight(shape=(WIDTH, 2, 8))

    def call(self, x: Any) -> Any:
        """Multiply."""
        return tf.einsum("bsd,dhk->bhsk", x, self.w)


def products() -> Candidate:
    """A product of a tensor with itself."""
    inputs = keras.Input((6, 6), name="x")
    return Candidate(load_source(keras.Model(inputs, layers.Dot(2)([inputs, inputs]))))


def numbers(*shape: int) -> Callable[[], Sequence[Any]]:
    """Samples of random numbers."""
    return lambda: [np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(np.float32)]


def _ids() -> Sequence[Any]:
    return [np.random.default_rng(1).integers(0, 20, (SAMPLES, 6)).astype(np.int32)]


_ROWS, _SEQUENCE, _IMAGE, _VOLUME = numbers(WIDTH), numbers(6, WIDTH), numbers(6, 6, 8), numbers(6, 6, 6, 8)
_CONVOLUTION = "static, bf16"

EXAMPLES = (
    Example("Dense", "static, bf16", of(lambda: layers.Dense(WIDTH), WIDTH), _ROWS),
    Example("Dense on sequences", "static, bf16", of(lambda: layers.Dense(WIDTH), 6, WIDTH), _SEQUENCE),
    Example("EinsumDense", "bf16", of(lambda: layers.EinsumDense("bsd,dhk->bshk", (6, 2, 8)), 6, WIDTH), _SEQUENCE),
    Example("`tf.einsum` with a weight", NOTHING, of(Product, 6, WIDTH), _SEQUENCE),
    Example("MultiHeadAttention", "bf16", of(SelfAttention, 6, WIDTH), _SEQUENCE),
    Example("Conv1D", _CONVOLUTION, of(lambda: layers.Conv1D(8, 3), 6, 8), numbers(6, 8)),
    Example("Conv2D", _CONVOLUTION, of(lambda: layers.Conv2D(8, 3), 6, 6, 8), _IMAGE),
    Example("Conv2D, grouped", _CONVOLUTION, of(lambda: layers.Conv2D(8, 3, groups=2), 6, 6, 8), _IMAGE),
    Example("DepthwiseConv2D", _CONVOLUTION, of(lambda: layers.DepthwiseConv2D(3), 6, 6, 8), _IMAGE),
    Example("SeparableConv2D", _CONVOLUTION, of(lambda: layers.SeparableConv2D(8, 3), 6, 6, 8), _IMAGE),
    Example("Conv3D", "bf16; static in Intel's builds", of(lambda: layers.Conv3D(8, 3), 6, 6, 6, 8), _VOLUME),
    Example(
        "Conv2DTranspose", "static in Intel's builds", of(lambda: layers.Conv2DTranspose(8, 3, 2), 6, 6, 8), _IMAGE
    ),
    Example(
        "Conv3DTranspose", "static in Intel's builds", of(lambda: layers.Conv3DTranspose(8, 3, 2), 6, 6, 6, 8), _VOLUME
    ),
    Example("LSTM", NOTHING, of(lambda: layers.LSTM(8), 6, WIDTH), _SEQUENCE),
    Example("GRU", NOTHING, of(lambda: layers.GRU(8), 6, WIDTH), _SEQUENCE),
    Example("SimpleRNN", NOTHING, of(lambda: layers.SimpleRNN(8), 6, WIDTH), _SEQUENCE),
    Example("Embedding", NOTHING, of(lambda: layers.Embedding(20, WIDTH), 6, dtype="int32"), _ids),
    Example("products of two activations", "bf16; static in Intel's builds", products, numbers(6, 6)),
)
