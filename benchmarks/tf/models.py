"""The Keras models of the TensorFlow benchmarks: two with random weights, two trained on digits."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Array = NDArray[Any]

LENGTH, WIDTH, FORWARD, BLOCKS, HEADS = 128, 256, 1024, 4, 4
IMAGE = 64
CLASSES = 10
TRAINED_ON = 1297
"""Digits; 500 are left to test on."""


class Digits:
    """scikit-learn's handwritten digits as images [samples, 8, 8, 1], shuffled.

    Attributes:
        train: 1,297 images and their labels.
        test: 500 others.
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.float32(digits.images[..., None] / 16)
        order = np.random.default_rng(0).permutation(len(images))
        first, last = order[:TRAINED_ON], order[TRAINED_ON:]
        self.train = images[first], digits.target[first]
        self.test = images[last], digits.target[last]


def exact_gelu(x: Any) -> Any:
    """GELU as Keras spells it, with Erfc."""
    return keras.activations.gelu(x, approximate=False)


def erf_gelu(x: Any) -> Any:
    """The same function with Erf: neither LiteRT nor ONNX has Erfc."""
    return 0.5 * x * (1.0 + keras.ops.erf(x * 2**-0.5))


def transformer(gelu: Any = exact_gelu, *, pooled: bool = True, seed: int = 0) -> Any:
    """Four pre-norm blocks, width 256, on [batch, 128, 256], with random weights.

    Args:
        gelu: `exact_gelu` or `erf_gelu`.
        pooled: whether it returns ten logits, of the mean over tokens; else the hidden states.
        seed: of the weights.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((LENGTH, WIDTH), name="x")
    x = _blocks(inputs, BLOCKS, WIDTH, FORWARD, HEADS, gelu)
    if pooled:
        x = layers.Dense(CLASSES, name="logits")(layers.GlobalAveragePooling1D()(x))
    return _randomized(keras.Model(inputs, x, name="transformer"), seed)


def cnn(seed: int = 0) -> Any:
    """Eleven convolutions with BatchNorm, three residual blocks and a depthwise one, on [batch, 64, 64, 3]."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((IMAGE, IMAGE, 3), name="x")
    x = _convolution(inputs, 64, stride=2)
    for channels, stride in ((64, 1), (128, 2), (256, 2)):
        shortcut = x if x.shape[-1] == channels else _convolution(x, channels, 1, stride, relu=False)
        inner = _convolution(_convolution(x, channels, 3, stride), channels, relu=False)
        x = layers.ReLU()(layers.add([shortcut, inner]))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(_convolution(x, 256, 1))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(_convolution(x, 256, 1))
    return _randomized(keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x), name="cnn"), seed)


def trained_cnn(digits: Digits) -> Any:
    """Six convolutions with BatchNorm and two residuals."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(digits.train[0].shape[1:], name="image")
    x = _convolution(inputs, 32)
    x = layers.ReLU()(layers.add([x, _convolution(_convolution(x, 32), 32, relu=False)]))
    x = _convolution(x, 64, stride=2)
    x = layers.ReLU()(layers.add([x, _convolution(_convolution(x, 64), 64, relu=False)]))
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return _trained(keras.Model(inputs, layers.Dense(CLASSES)(x), name="trained_cnn"), digits, epochs=8)


def trained_transformer(digits: Digits) -> Any:
    """Two pre-norm blocks, width 64; a row of the image is a token."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(digits.train[0].shape[1:], name="image")
    rows = layers.Reshape(inputs.shape[1:3])(inputs)
    places = layers.Embedding(rows.shape[1], 64, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5))
    x = layers.Dense(64)(rows) + places(keras.ops.arange(rows.shape[1]))
    x = layers.GlobalAveragePooling1D()(_blocks(x, 2, 64, 256, HEADS, exact_gelu))
    return _trained(keras.Model(inputs, layers.Dense(CLASSES)(x), name="trained_transformer"), digits, epochs=15)


def plant_outliers(model: Any, factor: float, channels: int = 6, *, compensated: bool, seed: int = 0) -> None:
    """Make some channels behind each LayerNormalization of `transformer` larger.

    Args:
        model: changed in place.
        factor: how many times larger.
        channels: of each.
        compensated: whether the weights that read them are made as many times smaller, so that the function stays the
            same.
        seed: chooses the channels.
    """
    generator = np.random.default_rng(seed)
    for norm in (layer for layer in model.layers if isinstance(layer, layers.LayerNormalization)):
        scale = np.ones(norm.gamma.shape, np.float32)
        scale[generator.choice(len(scale), channels, replace=False)] = factor
        norm.set_weights([weight * scale for weight in norm.get_weights()])
        if compensated:
            for kernel in _kernels_behind(norm):
                kernel.assign(kernel / scale.reshape(-1, *[1] * (len(kernel.shape) - 1)))


def _blocks(x: Any, count: int, width: int, forward: int, heads: int, gelu: Any) -> Any:
    """Pre-norm blocks and a last LayerNormalization."""
    for _ in range(count):
        inner = layers.LayerNormalization()(x)
        x = layers.add([x, layers.MultiHeadAttention(heads, width // heads)(inner, inner)])
        inner = layers.Activation(gelu)(layers.Dense(forward)(layers.LayerNormalization()(x)))
        x = layers.add([x, layers.Dense(width)(inner)])
    return layers.LayerNormalization()(x)


def _convolution(x: Any, channels: int, size: int = 3, stride: int = 1, relu: bool = True) -> Any:
    x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if relu else x


def _kernels_behind(layer: Any) -> list[Any]:
    """The weights that multiply what a layer returns."""
    readers = dict.fromkeys(node.operation for node in layer._outbound_nodes)  # one that reads it twice has two nodes
    kernels = []
    for reader in readers:
        if isinstance(reader, layers.GlobalAveragePooling1D):
            kernels += _kernels_behind(reader)
        else:
            kernels += [each for each in reader.weights if each.name == "kernel" and "output" not in each.path]
    return kernels


def _randomized(model: Any, seed: int) -> Any:
    """The model with biases and normalizations that are not 0 and 1."""
    generator = np.random.default_rng(seed)
    middles = {"gamma": 1.0, "moving_variance": 1.0}
    for weight in model.weights:
        if len(weight.shape) == 1:
            spread = 0.02 if weight.name == "bias" else 0.1
            weight.assign(generator.normal(middles.get(weight.name, 0.0), spread, weight.shape))
    return model


def _trained(model: Any, digits: Digits, epochs: int) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(*digits.train, batch_size=32, epochs=epochs, verbose=0)
    return model
