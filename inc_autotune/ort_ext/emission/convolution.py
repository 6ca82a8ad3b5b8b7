"""Convolutions between quantized tensors, which onnxruntime fuses into integer kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight, corrected_bias
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.integer_bias import emit_bias, with_room_for_bias
from inc_autotune.ort_ext.graph import Graph, attributes
from inc_autotune.ort_ext.operators import Operator


@dataclass(frozen=True)
class Convolution:
    """What a Conv is written with.

    Args:
        version: says how the kernel is made of the operator's weight.
        kernel: makes it, float32 [out_channels, in_channels / group, ...].
        bias: float32 [out_channels]; None without bias.
        attributes: of the Conv.
    """

    version: tuple[Hashable, ...]
    kernel: Callable[[], FloatArray]
    bias: FloatArray | None
    attributes: Mapping[str, Any]


def convolution_of(graph: Graph, operator: Operator) -> Convolution:
    """What an operator of type Conv is written with."""
    return Convolution(
        version=("kernel",),
        kernel=lambda: graph.constant(operator.weight),
        bias=None if operator.bias is None else graph.constant(operator.bias),
        attributes=attributes(graph.by_name[operator.name]),
    )


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
    emit_kernel(emission, operator, convolution_of(emission.graph, operator), config, limits, output)


def emit_kernel(
    emission: Emission,
    operator: Operator,
    convolution: Convolution,
    config: OpConfig,
    limits: tuple[float, float],
    output: str,
) -> None:
    """Write a Conv that computes an operator, or what it is made of.

    Args:
        emission: the model under construction.
        operator: whose input the Conv reads.
        convolution: the Conv.
        config: static.
        limits: smallest and largest value of the operator's input.
        output: name for the float output.
    """
    graph, builder, name = emission.graph, emission.builder, operator.name
    x = emission.quantized(operator.input, config.activation, limits)
    calibration, rounding = emission.plan.calibration(name), emission.rounding(name)

    def make() -> QuantizedWeight:
        return rounding.quantized(convolution.kernel(), config.weight)

    version: tuple[Hashable, ...] = (
        *(*convolution.version, config.weight, rounding.version, graph.origin(operator.weight)),
    )
    quantized = emission.weights.get(name, version, make)
    whole_bias = convolution.bias
    if calibration.input_means is not None:
        whole_bias = corrected_bias(whole_bias, convolution.kernel(), quantized, calibration.input_means)
    bias = None if emission.form.float_bias else whole_bias
    weight = with_room_for_bias(quantized, convolution.kernel, bias, x.step)
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
    elif whole_bias is not None:
        kept = operator.bias if operator.type == "Conv" and whole_bias is convolution.bias else None
        operands.append(kept or builder.constant(f"{name}.bias", whole_bias))
    builder.produce("Conv", operands, [output], name, **convolution.attributes)
