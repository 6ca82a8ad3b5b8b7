"""LSTMs, whose integer kernel quantizes the input and, in each step, the state by itself."""

from __future__ import annotations

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.ort_ext.emission.context import Emission, QuantizedNames
from inc_autotune.ort_ext.emission.recurrent_weights import recurrent_version, recurrent_weight
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, attributes
from inc_autotune.ort_ext.operators import Operator, recurrent_products

_WEIGHTS, _OTHERS = (1, 2), slice(3, 8)
"""Places of the weights, and of what stays float: bias, lengths, first states, peepholes."""


def emit_lstm(emission: Emission, operator: Operator, config: OpConfig) -> None:
    """Write an LSTM as a DynamicQuantizeLSTM, in every form: the ONNX standard has no integer one.

    Args:
        emission: the model under construction.
        operator: an LSTM.
        config: dynamic.
    """
    node = emission.graph.by_name[operator.name]
    weights = [_quantized(emission, operator, node.input[place], config) for place in _WEIGHTS]
    others = [*node.input[_OTHERS], *[""] * 5][:5]
    parameters = [name for weight in weights for name in (weight.scale, weight.zero_point)]
    inputs = [operator.input, *(weight.values for weight in weights), *others, *parameters]
    kept = {name: value for name, value in attributes(node).items() if name != "layout"}
    emission.builder.produce("DynamicQuantizeLSTM", inputs, node.output, operator.name, CONTRIB_DOMAIN, **kept)


def _quantized(emission: Emission, operator: Operator, name: str, config: OpConfig) -> QuantizedNames:
    """A weight [directions, 4 * hidden, features] as the kernel takes it: [directions, features, 4 * hidden].

    Scales are [directions, 4 * hidden], or [directions] where a direction has one.
    """
    graph = emission.graph

    def make() -> QuantizedWeight:
        products = recurrent_products(graph, graph.by_name[operator.name])
        parts = [recurrent_weight(emission, operator, config.weight, each) for each in products if each.weight == name]
        return QuantizedWeight(
            np.stack([part.values.T for part in parts]),
            np.stack([part.scale for part in parts]),
            np.stack([np.broadcast_to(part.zero_point, part.scale.shape) for part in parts]),
        )

    version = ("recurrence", graph.origin(name), recurrent_version(emission, operator, config.weight))
    return emission.weight(name, version, emission.weights.get((operator.name, name), version, make))
