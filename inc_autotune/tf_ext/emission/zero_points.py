"""Zero points of what convolutions read, which their kernels do not know.

An integer convolution of q with q = x / scale + zero_point is one of x, and a sum of weights for each feature that the
bias takes back, if the margins of the images hold the zero point.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, Grid, Range, grid_of, shifted_grid
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import DEPTHWISE, TRANSPOSED_TYPES, Operator

LEAST_GAIN = 10 ** (1 / 20)
"""A zero point makes steps at least this much smaller, 1 dB; for less the margins are not worth writing."""


def convolved_grid(graph: Graph, operator: Operator, config: TensorConfig, limits: Range) -> Grid:
    """On which a convolution quantizes a float tensor: with a zero point where that gains 1 dB.

    Args:
        graph: the fp32 signature.
        operator: a convolution of any type.
        config: of its activation; "sym" forbids a zero point.
        limits: smallest and largest value of the tensor.
    """
    plain = grid_of(CONVOLVED, limits)
    is_padded = operator.type in TRANSPOSED_TYPES or explicit_padding(graph, operator) is not None
    if config.scheme != "asym" or operator.type == DEPTHWISE or not plain.is_signed or not is_padded:
        return plain
    shifted = shifted_grid((limits[0], max(limits[1], 0.0)))
    return shifted if plain.scale >= LEAST_GAIN * shifted.scale else plain


def explicit_padding(graph: Graph, operator: Operator) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Zeros before and behind the images of a convolution, along height and width.

    Returns:
        None where this depends on the size of the images, which is not known.
    """
    attributes = operator.node.attr
    padding = attributes["padding"].s
    if padding == b"EXPLICIT":
        given = attributes["explicit_paddings"].list.i
        return (given[2], given[3]), (given[4], given[5])
    if padding == b"VALID":
        return (0, 0), (0, 0)
    shape, weight = graph.shape(operator.input), graph.shape(operator.weight)
    assert shape is not None
    assert weight is not None
    found = []
    for axis in (-3, -2):
        size, taps, step = shape[axis], weight[axis - 1], attributes["strides"].list.i[axis]
        assert taps is not None
        apart = attributes["dilations"].list.i[axis] if "dilations" in attributes else 1
        missing = (taps - 1) * apart
        if step > 1:
            if size is None:
                return None
            missing = max((-(-size // step) - 1) * step + missing + 1 - size, 0)
        found.append((missing // 2, missing - missing // 2))
    return found[0], found[1]


def padded(emission: Emission, operator: Operator, source: QuantizedTensor) -> QuantizedTensor:
    """The integers of images with margins of zeros, as these are in integers."""
    padding = explicit_padding(emission.graph, operator)
    assert padding is not None
    if padding == ((0, 0), (0, 0)):
        return source
    compute, name, dtype = emission.builder.compute, operator.name, source.grid.dtype
    raw = compute("Bitcast", [source.values], f"{name}/unpadded", T=dtype, type=tf.int8)
    ends = np.array([(0, 0), *padding, (0, 0)], np.int32)
    raw = with_zeros(emission, raw, ends, source.grid, name)
    return source.reshaped(compute("Bitcast", [raw], f"{name}/source", T=tf.int8, type=dtype))


def with_zeros(emission: Emission, tensor: str, ends: Array, grid: Grid, name: str) -> str:
    """Add zeros, as they are in integers, around a tensor.

    Args:
        emission: the graph under construction.
        tensor: int8 or uint8.
        ends: how many before and behind each dimension, int32 [dimensions, 2].
        grid: what the integers mean.
        name: prefix of new names.
    """
    dtype = tf.int8 if grid.is_signed else tf.uint8
    inputs = [tensor, emission.constant(f"{name}/ends", ends)]
    if not grid.shift:
        return emission.builder.compute("Pad", inputs, f"{name}/padded", T=dtype, Tpaddings=tf.int32)
    zero = emission.constant(f"{name}/zero_point", np.array(grid.shift, np.int8))
    return emission.builder.compute("PadV2", [*inputs, zero], f"{name}/padded", T=dtype, Tpaddings=tf.int32)


def shifted_bias(operator: Operator, source: QuantizedTensor, weight: QuantizedWeight) -> FloatArray:
    """The bias of a convolution, less what the zero point of its input adds to each feature; float32 [features]."""
    bias = np.zeros(operator.features) if operator.epilogue.bias is None else operator.epilogue.bias
    if source.grid.shift:
        added = weight.values.sum(axis=tuple(range(weight.values.ndim - 1)), dtype=np.int64) * weight.scale
        bias = bias - source.grid.shift * source.grid.scale * added
    return np.asarray(bias, np.float32)
