"""Small TensorFlow models with fixed random weights, and data for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

WIDTH = 32
HEADS = 4
LENGTH = 12
VOCABULARY = 50
CLASSES = 5

Array = NDArray[Any]


def randomized(model: Any, seed: int = 0) -> Any:
    """The model with weights drawn from a seed of its own; those of normalizations stay near 1 or 0."""
    generator = np.random.default_rng(seed)

    def drawn(weight: Any) -> Array:
        name, shape = weight.path.rsplit("/", 1)[-1], tuple(weight.shape)
        if len(shape) > 1:
            return generator.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        spread = generator.normal(size=shape) * 0.1
        return np.abs(spread) + 1 if name in ("gamma", "moving_variance") else spread

    model.set_weights([drawn(weight) for weight in model.weights])
    return model


def dense_chain(activation: str = "relu", seed: int = 0) -> Any:
    """Three Dense layers on [batch, 32]."""
    x = inputs = keras.Input((WIDTH,), name="x")
    x = layers.Dense(64, activation=activation, name="first")(x)
    x = layers.Dense(64, activation=activation, name="second")(x)
    return randomized(keras.Model(inputs, layers.Dense(CLASSES, name="last")(x), name="chain"), seed)


def transformer_block(length: int | None = LENGTH, seed: int = 0) -> Any:
    """One transformer block on token ids and a mask, [batch, length], with an exact GELU."""
    ids = keras.Input((length,), dtype="int32", name="ids")
    mask = keras.Input((length,), dtype="int32", name="attention_mask")
    x = layers.Embedding(VOCABULARY, WIDTH, name="embedding")(ids)
    allowed = layers.Reshape((1, -1))(mask)
    attended = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention")(x, x, attention_mask=allowed)
    x = layers.LayerNormalization(name="norm1")(x + attended)
    grown = layers.Dense(4 * WIDTH, name="grow")(x)
    grown = layers.Activation(lambda value: keras.activations.gelu(value, approximate=False), name="gelu")(grown)
    x = layers.LayerNormalization(name="norm2")(x + layers.Dense(WIDTH, name="shrink")(grown))
    x = layers.Dropout(0.1)(x)
    return randomized(keras.Model([ids, mask], layers.Dense(CLASSES, name="logits")(x), name="block"), seed)


def convolutions(seed: int = 0) -> Any:
    """Convolutions with BatchNorm, residual, depthwise, pooling and concatenation on [batch, 16, 16, 3]."""

    def convolution(x: Any, channels: int, size: int = 3) -> Any:
        x = layers.Conv2D(channels, size, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((16, 16, 3), name="image")
    x = convolution(inputs, 16)
    x = layers.MaxPooling2D()(x)
    x = layers.ReLU()(layers.add([x, convolution(convolution(x, 16), 16)]))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = layers.concatenate([convolution(x, 16, 1), convolution(x, 8)])
    x = layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2)(x))
    return randomized(keras.Model(inputs, layers.Dense(CLASSES)(x), name="convolutions"), seed)


class TwoLayers(tf.Module):
    """A tf.Module with inputs whose order is not that of their names, and several outputs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        self.first = tf.Variable(generator.normal(size=(WIDTH, 64)).astype(np.float32) / 6)
        self.second = tf.Variable(generator.normal(size=(64, CLASSES)).astype(np.float32) / 8)

    @tf.function(
        input_signature=[tf.TensorSpec([None, WIDTH], name="value"), tf.TensorSpec([None, 1], name="scale")],
        autograph=False,
    )
    def __call__(self, value: Any, scale: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(value @ self.first)
        return {"logits": hidden @ self.second * scale, "hidden": hidden}

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], name="value")], autograph=False)
    def embed(self, value: Any) -> Any:
        return tf.nn.relu(value @ self.first)


def two_signatures(directory: Path) -> Path:
    """A SavedModel with "serving_default" and "embed", which share a weight."""
    module = TwoLayers()
    tf.saved_model.save(module, str(directory), {"embed": module.embed, "serving_default": module.__call__})
    return directory


class WithControlFlow(tf.Module):
    """A loop and a branch with products in them, and one outside."""

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng(0)
        self.inner = tf.Variable(generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 6)
        self.outer = tf.Variable(generator.normal(size=(WIDTH, CLASSES)).astype(np.float32) / 6)

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], name="x")], autograph=False)
    def __call__(self, x: Any) -> Any:
        x = tf.while_loop(lambda step, _: step < 3, lambda step, y: (step + 1, tf.tanh(y @ self.inner)), (0, x))[1]
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: x @ self.inner, lambda: -x)
        return x @ self.outer


def frozen_graph(path: Path | None = None) -> Any:
    """A GraphDef as TensorFlow 1 froze them; written to a file where `path` is given."""
    generator = np.random.default_rng(0)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, WIDTH], name="x")
        weight = tf.constant(generator.normal(size=(WIDTH, CLASSES)).astype(np.float32), name="weight")
        tf.nn.softmax(tf.matmul(x, weight, name="product"), name="probabilities")
    graph_def = graph.as_graph_def()
    if path is not None:
        path.write_bytes(graph_def.SerializeToString())
    return graph_def


def chain_data(samples: int = 8, seed: int = 1) -> Array:
    """Inputs for `dense_chain`."""
    return np.random.default_rng(seed).normal(size=(samples, WIDTH)).astype(np.float32)


def block_data(samples: int = 4, length: int = LENGTH, seed: int = 1) -> dict[str, Array]:
    """Inputs for `transformer_block`; the last tokens of every other sample are padding."""
    mask = np.ones((samples, length), np.int32)
    mask[1::2, -3:] = 0
    return {
        "ids": np.random.default_rng(seed).integers(0, VOCABULARY, (samples, length)).astype(np.int32),
        "attention_mask": mask,
    }


def image_data(samples: int = 4, seed: int = 1) -> Array:
    """Inputs for `convolutions`."""
    return np.random.default_rng(seed).normal(size=(samples, 16, 16, 3)).astype(np.float32)
