"""Writes convolutions with int8 filters, with their bias, activation function and residual sum, as one operator."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, LARGEST_INT8, Range, grid_of
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.emission.linear import emit_product
from inc_autotune.tf_ext.emission.routes import GROUPS, is_written_as_product
from inc_autotune.tf_ext.emission.zero_points import convolved_grid, padded, shifted_bias
from inc_autotune.tf_ext.operators import DEPTHWISE, Operator, Residual

LARGEST_BIAS = 2.0**24
"""The largest integer up to which float32, in which the kernel adds a bias to its sums, holds every one."""

_UNSCALED = {"minimum": -LARGEST_INT8, "maximum": LARGEST_INT8}
"""Range of a weight whose integers stand for themselves."""


@dataclass(frozen=True)
class Total:
    """A residual sum that is fused with a convolution.

    Args:
        residual: the sum and its activation function.
        addend: the tensor that is added to the result of the convolution; unsigned integers.
    """

    residual: Residual
    addend: QuantizedTensor


def emit_convolution(
    emission: Emission,
    operator: Operator,
    config: OpConfig,
    limits: Range,
    output_range: Range | None,
    total: Total | None = None,
) -> None:
    """Write a convolution with an integer kernel.

    Args:
        emission: the graph under construction.
        operator: Conv2D or DepthwiseConv2dNative; one with groups returns float32.
        config: int8, static.
        limits: smallest and largest value of the operator's input.
        output_range: range of the integers that are returned; None: float32 is returned, which a depthwise convolution
            cannot do.
        total: a sum to be fused; only with `output_range`.
    """
    grid = convolved_grid(emission.graph, operator, config.activation, limits)
    source = emission.quantized(operator.input, grid, limits)
    if is_written_as_product(emission.graph, operator, output_range):
        emit_as_matrix_product(emission, operator, source, emission.weight(operator, config, as_matrix=True))
        return
    # Where there is no VNNI, oneDNN halves the weights of convolutions whose input is signed.
    weight = emission.weight(operator, config, even=source.grid.is_signed)
    if output_range is None:
        emit_to_float(emission, operator, source, weight)
        return
    made = to_integers(emission, operator, source, weight, output_range, total)
    emission.make_integers(operator.output if total is None else total.residual.output, made)


def emit_as_matrix_product(
    emission: Emission, operator: Operator, source: QuantizedTensor, weight: QuantizedWeight
) -> None:
    """A matrix product can return float32, which no integer convolution can."""
    matrix = emission.integer_matrix(source, weight.values.shape[0], operator.name)
    operator = replace(operator, epilogue=replace(operator.epilogue, bias=shifted_bias(operator, source, weight)))
    shape = emission.shape_like(operator.input, operator.features, operator.name)
    emit_product(emission, operator, matrix, weight, shape)


def to_integers(
    emission: Emission,
    operator: Operator,
    source: QuantizedTensor,
    weight: QuantizedWeight,
    output_range: Range,
    total: Total | None = None,
) -> QuantizedTensor:
    """Write a convolution, perhaps with a residual sum, that returns integers of a range."""
    # The kernel knows no Relu6, but integers end where their range does, and behind a Relu6 that is at 6 or below.
    grid = grid_of(CONVOLVED, output_range)
    name = operator.name
    bounds = [
        emission.builder.scalar(f"{name}/minimum", grid.minimum),
        emission.builder.scalar(f"{name}/maximum", grid.maximum),
    ]
    made = _convolution(emission, operator, source, weight, grid.dtype, bounds, total)
    return QuantizedTensor(made, f"{made}:1", f"{made}:2", grid)


def emit_to_float(emission: Emission, operator: Operator, source: QuantizedTensor, weight: QuantizedWeight) -> None:
    """Write a convolution that returns 32-bit sums, and their product with a scale.

    The kernel uses one scale for all features, that of the feature with the largest one. With groups it knows no scales
    of features at all, so it is told 1, and the sums are multiplied by the scale of each feature.
    """
    name, builder, function = operator.name, emission.builder, _function(operator, None)
    bias, steps = operator.epilogue.bias, np.asarray(source.grid.scale * weight.scale, np.float32)
    computed, behind = operator, ["Relu6"] if function == "Relu6" else []
    if operator.groups == 1:
        steps = steps.max()
    elif bias is not None and np.any(np.abs(bias) > LARGEST_BIAS * steps):
        # Beside products of tiny weights, which a folded BatchNorm may leave, the bias would need more than 32 bits.
        computed = replace(operator, epilogue=replace(operator.epilogue, bias=None, function=None))
        behind = ["AddV2"] if function is None else ["AddV2", function]
    sums = _convolution(emission, computed, source, weight, tf.qint32, [])
    values = builder.compute("Cast", [sums], f"{name}/sums", SrcT=tf.qint32, DstT=tf.float32, Truncate=False)
    operands = {"Mul": [emission.constant(f"{name}/step", steps)], "AddV2": [emission.bias(name, operator, None)]}
    for position, op in enumerate(["Mul", *behind]):
        made = operator.output if position == len(behind) else builder.new(f"{name}/{op.lower()}")
        values = builder.make(op, [values, *operands.get(op, [])], made, T=tf.float32)


def _convolution(
    emission: Emission,
    operator: Operator,
    source: QuantizedTensor,
    weight: QuantizedWeight,
    dtype: tf.DType,
    bounds: list[str],
    total: Total | None = None,
) -> str:
    """Add the integer operator, which returns `dtype`; with `bounds`, rounded to integers of that range."""
    name, builder, given = operator.name, emission.builder, operator.node.attr
    values, minimum, maximum = emission.weight_parts(name, weight, None)
    bias = shifted_bias(operator, source, weight)
    padding, ends = given["padding"].s.decode(), list(given["explicit_paddings"].list.i)
    attributes = {}
    if source.grid.shift:
        source = padded(emission, operator, source)
        padding, ends = "VALID", []
    if operator.groups > 1:
        minimum, maximum = (builder.scalar(f"{name}/weight/{end}", value) for end, value in _UNSCALED.items())
        bias = np.asarray(bias / weight.scale, np.float32)
        attributes[GROUPS] = operator.groups
    inputs = [source.values, values, emission.constant(f"{name}/bias", bias)]
    ranges = [source.minimum, source.maximum, minimum, maximum]
    if total is not None:
        inputs.append(_owned(emission, total.addend.values, f"{name}/addend"))
        ranges += [total.addend.minimum, total.addend.maximum]
    ranges += bounds
    fused = [
        "BiasAdd",
        *(["Sum"] if total is not None else []),
        *(["Relu"] if _function(operator, total) is not None else []),
        *(["Requantize"] if bounds else []),
    ]
    return builder.compute(
        "_FusedQuantizedDepthwiseConv2D" if operator.type == DEPTHWISE else "_FusedQuantizedConv2D",
        [*inputs, *ranges],
        f"{name}/integers",
        Tinput=source.grid.dtype,
        Tfilter=tf.qint8,
        Tbias=tf.float32,
        Tsummand=dtype,
        out_type=dtype,
        fused_ops=fused,
        strides=list(given["strides"].list.i),
        padding=padding,
        explicit_paddings=ends,
        data_format="NHWC",
        dilations=list(given["dilations"].list.i) or [1, 1, 1, 1],
        # The filter is a variable, but never written: the kernel packs it once.
        is_filter_const=True,
        is_bias_const=True,
        Tdevice_inputs=[source.grid.dtype, tf.qint8, tf.float32, *([] if total is None else [total.addend.grid.dtype])],
        Thost_inputs=[tf.float32] * len(ranges),
        Tdevice_outputs=[dtype],
        Thost_outputs=[tf.float32, tf.float32],
        **attributes,
    )


def _function(operator: Operator, total: Total | None) -> str | None:
    """The activation function that is computed last: "Relu", "Relu6" or None."""
    if total is not None:
        return total.residual.function
    return operator.function


def _owned(emission: Emission, values: str, name: str) -> str:
    """The same unsigned integers in memory that no other operator reads.

    The kernel writes its sums over the addend, and kills the process if another operator still holds the addend's
    memory. A Snapshot copies the integers in that case, and else returns its input.
    """
    compute = emission.builder.compute
    raw = compute("Bitcast", [values], f"{name}/bytes", T=tf.quint8, type=tf.uint8)
    own = compute("Snapshot", [raw], f"{name}/snapshot", T=tf.uint8)
    return compute("Bitcast", [own], name, T=tf.uint8, type=tf.quint8)
