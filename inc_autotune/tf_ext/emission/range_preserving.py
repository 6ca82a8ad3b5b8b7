"""Operators whose output has the range of their inputs, so that they work on integers too: poolings, ConcatV2, Pad."""

from __future__ import annotations

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph import Graph, data_inputs, tensor_name
from inc_autotune.tf_ext.target import GraphChoices

VOLUME_POOLING = "MaxPool3D"
POOLINGS = {"MaxPool": b"NHWC", VOLUME_POOLING: b"NDHWC"}
"""Max poolings, and the order of dimensions in which they work on integers."""


def preserves_range(graph: Graph, node: NodeDef, choices: GraphChoices) -> bool:
    """Whether a node's output consists of values of its inputs, and of zeros, which every range has.

    Args:
        graph: of the node.
        node: of any type.
        choices: which operator types may work on integers.
    """
    if node.op in POOLINGS:
        known = node.attr["data_format"].s in (b"", POOLINGS[node.op]) and node.attr["padding"].s in (b"SAME", b"VALID")
        shape = graph.shape(tensor_name(node.input[0])) if node.op == VOLUME_POOLING else ()
        return choices.propagate_max_pooling and known and shape is not None and None not in shape[1:]
    if node.op == "ConcatV2":
        return choices.propagate_concat and graph.constant_node(list(data_inputs(node))[-1]) is not None
    return str(node.op) == "Pad"


def value_inputs(node: NodeDef) -> list[str]:
    """The inputs of a range-preserving node that hold values; others are paddings or an axis."""
    tensors = list(data_inputs(node))
    return tensors if node.op in POOLINGS else tensors[:-1]


def keeps_maximum(graph: Graph, pooling: NodeDef) -> bool:
    """Whether the windows of a max pooling cover every value, so that its output has the largest value of its input."""
    sizes, strides = pooling.attr["ksize"].list.i, pooling.attr["strides"].list.i
    if any(size < stride for size, stride in zip(sizes, strides, strict=True)):
        return False
    if pooling.attr["padding"].s == b"SAME":
        return True
    shape = graph.shape(tensor_name(pooling.input[0]))
    if shape is None or None in shape[1:]:
        return False
    dimensions = zip(shape[1:], sizes[1:], strides[1:], strict=True)
    return all((length - size) % stride == 0 for length, size, stride in dimensions if length is not None)
