"""LSTMs, whose integer kernel quantizes the input and, in each step, the state by itself."""

from __future__ import annotations

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight, quantize_weight
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.emission.context import Emission, QuantizedNames
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, attributes
from inc_autotune.ort_ext.operators import Operator

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

    Scales are [directions, 4 * hidden], or [directions] where the weight has one.
    """
    reduce_range = emission.plan.calibration(operator.name).reduce_range

    def make() -> QuantizedWeight:
        weight = emission.graph.constant(name)
        directions, gates, features = weight.shape
        rows = weight.reshape(directions * gates, features)
        quantized = quantize_weight(rows, config.weight, axis=0, framework=FRAMEWORK, reduce_range=reduce_range)
        values = np.ascontiguousarray(quantized.values.reshape(weight.shape).transpose(0, 2, 1))
        scales = (directions, gates) if quantized.scale.ndim else (directions,)
        scale, zero_point = (
            np.ascontiguousarray(np.broadcast_to(part.reshape(scales if part.ndim else ()), scales))
            for part in (quantized.scale, quantized.zero_point)
        )
        return QuantizedWeight(values, scale, zero_point)

    version = ("recurrence", config.weight, reduce_range, emission.graph.origin(name))
    return emission.weight(name, version, emission.weights.get((operator.name, name), version, make))
