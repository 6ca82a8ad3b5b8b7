"""Operators whose output consists of values of their inputs, so that they work on integers too."""

from __future__ import annotations

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph.graph import Graph, data_inputs, tensor_name
from inc_autotune.tf_ext.target.choices import GraphChoices


def picks(graph: Graph, node: NodeDef, choices: GraphChoices) -> bool:
    """Whether a node's output consists of values of its inputs, and of zeros, which are integers of every range.

    Args:
        graph: of the node.
        node: of any type.
        choices: which types are wanted.
    """
    if node.op == "MaxPool":
        known = node.attr["data_format"].s in (b"", b"NHWC") and node.attr["padding"].s in (b"SAME", b"VALID")
        return choices.propagate_max_pooling and known
    if node.op == "ConcatV2":
        return choices.propagate_concat and graph.constant_node(list(data_inputs(node))[-1]) is not None
    return str(node.op) == "Pad"


def picked(node: NodeDef) -> list[str]:
    """What such a node picks its values of."""
    tensors = list(data_inputs(node))
    return tensors if node.op == "MaxPool" else tensors[:-1]


def keeps_largest(graph: Graph, pooling: NodeDef) -> bool:
    """Whether every value is in a window of a max pooling, so that the largest one is in its output."""
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
