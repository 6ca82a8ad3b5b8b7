"""A neural network library of one layer type, to test the core without any framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inc_autotune.core.arrays import FloatArray


def identity(values: FloatArray) -> FloatArray:
    """The input as it is: the transform of an fp32 layer."""
    return values


@dataclass(frozen=True)
class Dense:
    """`relu(x @ weight.T + bias)`; the activation passes through `transform` first.

    Args:
        name: the operator's name.
        weight: [out_features, in_features].
        bias: [out_features].
        transform: applied to the input, such as rounding to an integer grid.
    """

    name: str
    weight: FloatArray
    bias: FloatArray
    transform: Callable[[FloatArray], FloatArray] = identity

    def __call__(self, inputs: FloatArray) -> FloatArray:
        outputs: FloatArray = np.maximum(self.transform(inputs) @ self.weight.T + self.bias, 0)
        return outputs


@dataclass(frozen=True)
class NumpyModel:
    """Dense layers, one after the other, from [samples, features] to [samples, features]."""

    layers: tuple[Dense, ...]

    def __call__(self, inputs: FloatArray) -> FloatArray:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs

    def inputs_of_layers(self, inputs: FloatArray) -> dict[str, FloatArray]:
        """The inputs of all layers, by layer name."""
        found = {}
        for layer in self.layers:
            found[layer.name] = inputs
            inputs = layer(inputs)
        return found

    def with_layers(self, layers: Sequence[Dense]) -> NumpyModel:
        """The same model with layers replaced by the given ones of the same name."""
        by_name = {layer.name: layer for layer in layers}
        return replace(self, layers=tuple(by_name.get(layer.name, layer) for layer in self.layers))


def with_arrays(model: NumpyModel, arrays: Mapping[str, FloatArray]) -> NumpyModel:
    """The same model with copies of these weights and biases, named `dense0.weight`, `dense0.bias`, or of its own."""
    return model.with_layers(
        [
            replace(
                layer,
                weight=arrays.get(f"{layer.name}.weight", layer.weight).copy(),
                bias=arrays.get(f"{layer.name}.bias", layer.bias).copy(),
            )
            for layer in model.layers
        ]
    )


def random_model(layers: int = 4, features: int = 16, *, outlier: float = 1.0, seed: int = 0) -> NumpyModel:
    """A model with random weights whose activations keep their magnitude from layer to layer.

    Args:
        layers: number of layers, named `dense0`, `dense1`, ...
        features: width of every layer.
        outlier: every layer multiplies one output channel by this factor and the next layer divides by it. That does
            not change the fp32 function, but makes the activations hard to quantize.
        seed: of the weights.
    """
    generator = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        weight = generator.normal(0, np.sqrt(2 / features), (features, features)).astype(np.float32)
        if index > 0:
            weight[:, 0] /= outlier
        if index < layers - 1:
            weight[0] *= outlier
        made.append(Dense(f"dense{index}", weight, np.zeros(features, np.float32)))
    return NumpyModel(tuple(made))
