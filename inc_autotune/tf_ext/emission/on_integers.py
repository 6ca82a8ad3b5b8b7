"""Writes max poolings, paddings and concatenations of integers, see `range_preserving`."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.errors import QuantizationError
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.graph import data_inputs


def emit_on_integers(emission: Emission, node: NodeDef) -> None:
    """Write a MaxPool, Pad or ConcatV2 that reads the integers of its inputs and returns integers.

    Args:
        emission: the graph under construction.
        node: of the fp32 graph; its inputs are integers there.

    Raises:
        QuantizationError: the inputs have different scales.
    """
    *tensors, last = data_inputs(node)
    name = f"{node.name}/integers"
    compute = emission.builder.compute
    if node.op == "MaxPool":
        source = _integers(emission, last)
        values = compute(
            "QuantizedMaxPool",
            [source.values, source.minimum, source.maximum],
            name,
            T=source.grid.dtype,
            ksize=list(node.attr["ksize"].list.i),
            strides=list(node.attr["strides"].list.i),
            padding=node.attr["padding"].s.decode(),
        )
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


def _integers(emission: Emission, tensor: str) -> QuantizedTensor:
    found = emission.integers(tensor)
    assert found is not None
    return found
