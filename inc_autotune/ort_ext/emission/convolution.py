"""Convolutions between quantized tensors, which onnxruntime fuses into integer kernels."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight, quantize_weight
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.integer_bias import emit_bias, with_room_for_bias
from inc_autotune.ort_ext.graph import attributes
from inc_autotune.ort_ext.operators import Operator


def emit_convolution(
    emission: Emission, operator: Operator, config: OpConfig, limits: tuple[float, float], output: str
) -> None:
    """Write one convolution with dequantized inputs and a float output; `put_on_grid` quantizes the output.

    Args:
        emission: the model under construction.
        operator: a Conv.
        config: static.
        limits: smallest and largest value of the operator's input.
        output: name for the float output.
    """
    graph, builder, name = emission.graph, emission.builder, operator.name
    x = emission.quantized(operator.input, config.activation, limits)
    bias = None if operator.bias is None or emission.form.float_bias else graph.constant(operator.bias)

    reduce_range = emission.plan.calibration(name).reduce_range

    def make() -> QuantizedWeight:
        weight = graph.constant(operator.weight)
        return quantize_weight(weight, config.weight, axis=0, framework=FRAMEWORK, reduce_range=reduce_range)

    version: tuple[Hashable, ...] = ("kernel", config.weight, reduce_range, graph.origin(operator.weight))
    quantized = emission.weights.get(name, version, make)
    weight = with_room_for_bias(quantized, lambda: graph.constant(operator.weight), bias, x.step)
    if weight is not quantized:  # coarser for this bias and this step of the input, and for no other operator
        version = (name, *version)
    names = emission.weight(operator.weight, version, weight)
    axis: dict[str, Any] = {"axis": 0} if weight.scale.ndim else {}
    operands = [
        emission.dequantized(operator.input, x),
        builder.compute("DequantizeLinear", names.parts, f"{name}.weight", **axis),
    ]
    if bias is not None:
        operands.append(emit_bias(emission, name, bias, weight, x.step))
    elif operator.bias is not None:
        operands.append(operator.bias)
    builder.produce("Conv", operands, [output], name, **attributes(graph.by_name[name]))
