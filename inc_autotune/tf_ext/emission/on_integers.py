"""Writes max poolings, paddings and concatenations of integers, see `range_preserving`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.errors import QuantizationError
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.emission.range_preserving import POOLINGS, VOLUME_POOLING
from inc_autotune.tf_ext.graph import data_inputs, reshape, tensor_name


def emit_on_integers(emission: Emission, node: NodeDef) -> None:
    """Write a max pooling, Pad or ConcatV2 that reads the integers of its inputs and returns integers.

    Args:
        emission: the graph under construction.
        node: of the fp32 graph; its inputs are integers there.

    Raises:
        QuantizationError: the inputs have different scales.
    """
    *tensors, last = data_inputs(node)
    name = f"{node.name}/integers"
    compute = emission.builder.compute
    if node.op in POOLINGS:
        source = _integers(emission, last)
        values = _pooled(emission, node, source, name)
    elif node.op == "Pad":
        source = _integers(emission, tensors[0])
        index = tf.as_dtype(node.attr["Tpaddings"].type)
        values = compute("Pad", [source.values, last], name, T=source.grid.dtype, Tpaddings=index)
    else:
        sources = [_integers(emission, tensor) for tensor in tensors]
        source, index = sources[0], tf.as_dtype(node.attr["Tidx"].type)
        if any(other.grid != source.grid for other in sources):
            raise QuantizationError(f"{node.name}: integers of several scales cannot be concatenated.")
        values = compute(
            "ConcatV2",
            [*(other.values for other in sources), last],
            name,
            N=len(sources),
            T=source.grid.dtype,
            Tidx=index,
        )
    emission.make_integers(node.name, source.reshaped(values))


def _pooled(emission: Emission, node: NodeDef, source: QuantizedTensor, name: str) -> str:
    """A max pooling; that of volumes is one of pictures, and one of columns of layers."""
    sizes, strides = ([int(each) for each in node.attr[key].list.i] for key in ("ksize", "strides"))
    builder, dtype, padding = emission.builder, source.grid.dtype, node.attr["padding"].s.decode()

    def pooled(values: str, sizes: list[int], strides: list[int]) -> str:
        if max(*sizes, *strides) == 1:
            return values
        inputs, ends = [values, source.minimum, source.maximum], {"ksize": sizes, "strides": strides}
        return builder.compute("QuantizedMaxPool", inputs, name, T=dtype, padding=padding, **ends)

    def shaped(values: str, *sizes: int | None) -> str:
        shape = emission.constant(f"{name}/shape", np.array([-1, *sizes], np.int32))
        return reshape(builder, values, shape, f"{name}/shaped", dtype)

    if node.op != VOLUME_POOLING:
        return pooled(source.values, sizes, strides)
    given, made = (emission.graph.shape(each) for each in (tensor_name(node.input[0]), node.name))
    assert given is not None
    assert made is not None
    _, depth, *picture = given
    _, _, rows, columns, channels = made
    values = pooled(shaped(source.values, *picture), [1, *sizes[2:]], [1, *strides[2:]])
    values = shaped(values, depth, (rows or 0) * (columns or 0), channels)
    return shaped(pooled(values, [1, sizes[1], 1, 1], [1, strides[1], 1, 1]), *made[1:])


def _integers(emission: Emission, tensor: str) -> QuantizedTensor:
    found = emission.integers(tensor)
    assert found is not None
    return found
