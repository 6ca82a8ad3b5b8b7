"""Writes transposed convolutions, and those in three dimensions, as ordinary integer convolutions and moved data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.op_config import OpConfig
from inc_autotune.tf_ext.emission.activation_grid import Range
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.emission.convolution import Total, emit_as_matrix_product, emit_to_float, to_integers
from inc_autotune.tf_ext.emission.routes import is_written_as_product
from inc_autotune.tf_ext.emission.zero_points import convolved_grid, with_zeros
from inc_autotune.tf_ext.graph import reshape
from inc_autotune.tf_ext.operators import CONVOLUTION, Operator, TransposedGeometry, geometry_of


def emit_transposed(
    emission: Emission, operator: Operator, config: OpConfig, limits: Range, output_range: Range | None
) -> None:
    """Write a transposed convolution with an integer kernel.

    Args:
        emission: the graph under construction.
        operator: Conv2DBackpropInput or Conv3DBackpropInputV2.
        config: int8, static.
        limits: smallest and largest value of the operator's input.
        output_range: range of the integers that are returned; None: float32 is returned.
    """
    geometry = geometry_of(emission.graph, operator)
    positions = math.prod(geometry.steps)
    grid = convolved_grid(emission.graph, operator, config.activation, limits)
    source = emission.quantized(operator.input, grid, limits)
    bias = operator.epilogue.bias
    ordinary = _ordinary(
        emission, operator, operator.features * positions, None if bias is None else np.tile(bias, positions)
    )
    if is_written_as_product(emission.graph, operator, output_range):
        emit_as_matrix_product(emission, ordinary, source, emission.weight(operator, config, as_matrix=True))
        _interleave(emission, operator, ordinary.output, geometry, tf.float32, operator.output)
        return
    ordinary.node.attr["padding"].s = b"EXPLICIT"
    ends = [0, 0, *geometry.padding[-2], *geometry.padding[-1], 0, 0]
    ordinary.node.attr["explicit_paddings"].list.i.extend(ends)
    if len(geometry.taps) > 2:
        layers = _Layers(geometry.taps[0], geometry.made[0] // geometry.steps[0], geometry.padding[0])
        source = _layers_as_channels(emission, operator, source, layers)
    weight = emission.weight(operator, config, even=source.grid.is_signed)
    if output_range is None:
        emit_to_float(emission, ordinary, source, weight)
        _interleave(emission, operator, ordinary.output, geometry, tf.float32, operator.output)
        return
    made, compute = to_integers(emission, ordinary, source, weight, output_range), emission.builder.compute
    dtype = tf.int8 if made.grid.is_signed else tf.uint8
    values = compute("Bitcast", [made.values], f"{operator.name}/apart", T=made.grid.dtype, type=dtype)
    whole = emission.builder.new(f"{operator.name}/whole")
    _interleave(emission, operator, values, geometry, dtype, whole)
    values = compute("Bitcast", [whole], f"{operator.name}/returned", T=dtype, type=made.grid.dtype)
    emission.make_integers(operator.output, made.reshaped(values))


def emit_volume(
    emission: Emission,
    operator: Operator,
    config: OpConfig,
    limits: Range,
    output_range: Range | None,
    total: Total | None = None,
) -> None:
    """Write a convolution in three dimensions with an integer kernel for two.

    Of each layer the image is a picture whose channels are those of all layers that the kernel covers.

    Args:
        emission: the graph under construction.
        operator: Conv3D.
        config: int8, static.
        limits: smallest and largest value of the operator's input.
        output_range: range of the integers that are returned; None: float32 is returned.
        total: a sum to be fused; only with `output_range`.
    """
    grid = convolved_grid(emission.graph, operator, config.activation, limits)
    source = emission.quantized(operator.input, grid, limits)
    if is_written_as_product(emission.graph, operator, output_range):
        weight = emission.weight(operator, config, as_matrix=True)
        emit_as_matrix_product(emission, operator, source, weight)
        return
    ordinary = _ordinary(emission, operator, operator.features, operator.epilogue.bias)
    given = operator.node.attr
    ordinary.node.attr["padding"].s = given["padding"].s
    for key in ("strides", "dilations"):
        steps = list(given[key].list.i) or [1] * 5
        ordinary.node.attr[key].list.i[:] = [1, *steps[2:4], 1]
    pictures = _layers_as_channels(emission, operator, source, _layers(emission, operator))
    weight = emission.weight(operator, config, even=source.grid.is_signed)
    builder, shape = emission.builder, emission.graph.shape(operator.node.name) or ()
    whole = emission.constant(f"{operator.name}/volume", np.array([-1, *shape[1:]], np.int32))
    if output_range is None:
        emit_to_float(emission, ordinary, pictures, weight)
        builder.make("Reshape", [ordinary.output, whole], operator.output, T=tf.float32, Tshape=tf.int32)
        return
    output = operator.output
    if total is not None:
        output, addend = total.residual.output, total.addend
        flat = emission.constant(f"{operator.name}/flat", np.array([-1, *shape[2:]], np.int32))
        values = reshape(builder, addend.values, flat, f"{operator.name}/added", addend.grid.dtype)
        total = replace(total, addend=addend.reshaped(values))
    made = to_integers(emission, ordinary, pictures, weight, output_range, total)
    values = reshape(builder, made.values, whole, f"{operator.name}/layered", made.grid.dtype)
    emission.make_integers(output, made.reshaped(values))


@dataclass(frozen=True)
class _Layers:
    """Which layers of a volume lie side by side.

    Args:
        taps: how many at a time.
        count: how many times.
        ends: layers of zeros before and behind the volume.
        step: from the first of one time to the first of the next one.
        apart: from one to the next one of a time.
    """

    taps: int
    count: int
    ends: tuple[int, int]
    step: int = 1
    apart: int = 1


def _layers(emission: Emission, operator: Operator) -> _Layers:
    """The layers that a Conv3D covers."""
    given, weight = operator.node.attr, emission.graph.shape(operator.weight)
    taps, depth, count = (
        _depth(shape)
        for shape in (
            (None, *(weight or ())),
            emission.graph.shape(operator.input),
            emission.graph.shape(operator.node.name),
        )
    )
    step, apart = given["strides"].list.i[1], (list(given["dilations"].list.i) or [1] * 5)[1]
    missing = max((count - 1) * step + (taps - 1) * apart + 1 - depth, 0)
    return _Layers(taps, count, (missing // 2, missing - missing // 2), step, apart)


def _ordinary(emission: Emission, operator: Operator, features: int, bias: np.ndarray | None) -> Operator:
    """A convolution in two dimensions with the operator's name and function, and an output of its own."""
    node = NodeDef(name=operator.node.name, op=CONVOLUTION)
    node.attr["strides"].list.i.extend([1, 1, 1, 1])
    node.attr["dilations"].list.i.extend([1, 1, 1, 1])
    output = emission.builder.new(f"{operator.name}/convolved")
    function = operator.epilogue.function
    epilogue = replace(
        operator.epilogue,
        affine_output=output,
        multiplier=None,
        bias=bias,
        function=None if function is None else replace(function, output=output),
    )
    return replace(operator, node=node, type=CONVOLUTION, features=features, epilogue=epilogue)


def _interleave(
    emission: Emission, operator: Operator, tensor: str, geometry: TransposedGeometry, dtype: tf.DType, output: str
) -> None:
    """Write `output`: the features of each position become those of the positions between the inputs."""
    builder, name = emission.builder, operator.name
    *layers, down, right = geometry.steps
    *_, rows, columns = (made // step for made, step in zip(geometry.made, geometry.steps, strict=True))
    deep = math.prod(layers)
    features = deep * operator.features
    is_cut = geometry.made != geometry.size
    whole = builder.new(f"{name}/interleaved") if is_cut else output

    def shaped(shape: Sequence[int]) -> str:
        return emission.constant(f"{name}/shape", np.array([-1, *shape], np.int32))

    def ordered(tensor: str, parts: Sequence[int], order: Sequence[int]) -> str:
        apart = reshape(builder, tensor, shaped(parts), f"{name}/apart", dtype)
        places = emission.constant(f"{name}/order", np.array(order, np.int32))
        return builder.compute("Transpose", [apart, places], f"{name}/ordered", T=dtype, Tperm=tf.int32)

    if down == right > 1:
        pictures = tensor
        if layers:
            shape = [rows, columns, down * right * features]
            pictures = reshape(builder, tensor, shaped(shape), f"{name}/pictures", dtype)
        tensor = builder.compute(
            "DepthToSpace", [pictures], f"{name}/spread", T=dtype, block_size=down, data_format="NHWC"
        )
    elif down > 1:
        tensor = ordered(tensor, [rows, columns, down, right * features], [0, 1, 3, 2, 4])
    if deep > 1:
        tensor = ordered(tensor, [geometry.made[-2] * geometry.made[-1], deep, operator.features], [0, 2, 1, 3])
    builder.make("Reshape", [tensor, shaped([*geometry.made, operator.features])], whole, T=dtype, Tshape=tf.int32)
    if is_cut:
        begin = emission.constant(f"{name}/begin", np.array([0, *geometry.cut, 0], np.int32))
        size = emission.constant(f"{name}/size", np.array([-1, *geometry.size, -1], np.int32))
        builder.make("Slice", [whole, begin, size], output, T=dtype, Index=tf.int32)


def _layers_as_channels(
    emission: Emission, operator: Operator, source: QuantizedTensor, layers: _Layers
) -> QuantizedTensor:
    """The integers of a volume as pictures, one for each time that layers lie side by side."""
    builder, name = emission.builder, operator.name
    shape = emission.graph.shape(operator.input)
    dtype = tf.int8 if source.grid.is_signed else tf.uint8
    tensor = builder.compute("Bitcast", [source.values], f"{name}/bytes", T=source.grid.dtype, type=dtype)
    if any(layers.ends):
        ends = np.zeros((5, 2), np.int32)
        ends[1] = layers.ends
        tensor = with_zeros(emission, tensor, ends, source.grid, name)
    covered = [
        _every(emission, tensor, tap * layers.apart, layers.step, layers.count, dtype, f"{name}/layer_{tap}")
        for tap in range(layers.taps)
    ]
    axis = emission.constant(f"{name}/channels", np.array(4, np.int32))
    joined = covered[0]
    if len(covered) > 1:
        joined = builder.compute("ConcatV2", [*covered, axis], f"{name}/layers", N=len(covered), T=dtype, Tidx=tf.int32)
    assert shape is not None
    flat = np.array([-1, *shape[2:4], layers.taps * (shape[4] or 0)], np.int32)
    pictures = reshape(builder, joined, emission.constant(f"{name}/flat", flat), f"{name}/pictures", dtype)
    return source.reshaped(builder.compute("Bitcast", [pictures], f"{name}/quantized", T=dtype, type=source.grid.dtype))


def _depth(shape: Sequence[int | None] | None) -> int:
    """The first size behind that of the batch, which is known of every operator that was found."""
    assert shape is not None
    size = shape[1]
    assert size is not None
    return size


def _every(emission: Emission, tensor: str, first: int, step: int, count: int, dtype: tf.DType, name: str) -> str:
    """Every `step`th layer, from the first one on."""
    constant, compute = emission.constant, emission.builder.compute
    if step > 1:  # many times faster than a slice with gaps
        places = constant(f"{name}/places", np.arange(first, first + count * step, step, dtype=np.int32))
        axis = constant(f"{name}/axis", np.array(1, np.int32))
        kinds = {"Tparams": dtype, "Tindices": tf.int32, "Taxis": tf.int32}
        return compute("GatherV2", [tensor, places, axis], name, batch_dims=0, **kinds)
    begin = constant(f"{name}/begin", np.array([0, first, 0, 0, 0], np.int32))
    size = constant(f"{name}/size", np.array([-1, count, -1, -1, -1], np.int32))
    return compute("Slice", [tensor, begin, size], name, T=dtype, Index=tf.int32)
