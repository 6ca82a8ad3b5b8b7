"""Some operators of a graph as a small model of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.graph.builder import GraphBuilder
from inc_autotune.tf_ext.graph.graph import Graph, data_inputs, tensor_name
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription
from inc_autotune.tf_ext.operators.discovery import Operator


class Part:
    """Operators that read the same tensor, with their epilogues.

    Args:
        graph: of the model.
        operators: of that graph.

    Attributes:
        operators: see above.
        source: the tensor they read.
        read: this and all other tensors that are computed outside, such as the shape of a result.
    """

    def __init__(self, graph: Graph, operators: Sequence[Operator]) -> None:
        self.operators = operators
        self.source = operators[0].input
        self._graph = graph
        self._inside = {name for each in operators for name in (*each.nodes, *_reshapes(graph, each))}
        self.read = {self.source} | {
            tensor
            for name in self._inside
            for tensor in data_inputs(graph.by_name[name])
            if tensor not in self._inside and graph.constant_node(tensor) is None
        }

    def signature(self, values: Mapping[str, Array]) -> SignatureGraph:
        """A signature that takes the source and returns what each operator makes.

        Args:
            values: of the tensors in `read`; all but the source become constants.
        """
        shape = values[self.source].shape
        outputs = tuple(TensorDescription(each.name, tf.float32, None, f"{each.output}:0") for each in self.operators)
        builder = GraphBuilder(self._graph)
        given = builder.compute("Placeholder", [], "given", dtype=tf.float32, shape=tf.TensorShape(shape))
        names = {tensor: builder.constant("given", values[tensor]) for tensor in sorted(self.read - {self.source})}
        names[self.source] = given
        for node in self._graph.nodes:
            builder.keep(_reading(node, names))
        made = TensorDescription("x", tf.float32, shape, f"{given}:0")
        return builder.build(inputs=(made,), outputs=outputs)


def _reshapes(graph: Graph, operator: Operator) -> Iterator[str]:
    """Names of the nodes between an operator's input and its product."""
    tensor = operator.input_of_product
    while tensor != operator.input:
        yield tensor
        tensor = tensor_name(graph.by_name[tensor].input[0])


def _reading(node: NodeDef, names: Mapping[str, str]) -> NodeDef:
    """The node with some of its inputs under other names, and without those that it only waits for."""
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(tensor, tensor) for tensor in data_inputs(node)]
    return copy
