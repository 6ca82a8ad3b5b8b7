"""Some operators of a graph as a model of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.graph import Graph, GraphBuilder, SignatureGraph, TensorDescription, data_inputs, tensor_name
from inc_autotune.tf_ext.operators import Operator


class Subgraph:
    """Operators that read the same tensor, with their epilogues.

    Args:
        graph: the whole signature.
        operators: of that graph.

    Attributes:
        graph: the argument.
        operators: the argument.
        source: name of the tensor that the operators read.
        read: names of all tensors that the operators read and other nodes compute: the source, and tensors such as the
            shape of a result.
    """

    def __init__(self, graph: Graph, operators: Sequence[Operator]) -> None:
        self.operators = operators
        self.source = operators[0].input
        self.graph = graph
        self._inside = {name for operator in operators for name in (*operator.nodes, *_reshapes(graph, operator))}
        self.read = {self.source} | {
            tensor
            for name in self._inside
            for tensor in data_inputs(graph.by_name[name])
            if tensor not in self._inside and graph.constant_node(tensor) is None
        }

    def signature(self, values: Mapping[str, Array]) -> SignatureGraph:
        """A signature with the source as input and the results of the operators as outputs.

        Args:
            values: of the tensors in `read`. The source becomes an input of that shape, other tensors constants.
        """
        shape = values[self.source].shape
        outputs = tuple(
            TensorDescription(operator.name, tf.float32, None, f"{operator.output}:0") for operator in self.operators
        )
        builder = GraphBuilder(self.graph)
        given = builder.compute("Placeholder", [], "given", dtype=tf.float32, shape=tf.TensorShape(shape))
        names = {tensor: builder.constant("given", values[tensor]) for tensor in sorted(self.read - {self.source})}
        names[self.source] = given
        for node in self.graph.nodes:
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
    """A copy of a node that reads other tensors, by name of the old ones, and has no control inputs."""
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(tensor, tensor) for tensor in data_inputs(node)]
    return copy
