"""Construction of a model from the nodes of another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import onnx
from onnx import helper

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import reserved
from inc_autotune.ort_ext.graph.graph import CONTRIB_DOMAIN, Graph, read_by
from inc_autotune.ort_ext.graph.graph_model import GraphModel, bodies, copy_fields, initializer, names_read, names_taken
from inc_autotune.ort_ext.graph.mapped_weights import MappedWeights


class GraphBuilder:
    """Collects the nodes and constants of a new model with the inputs and outputs of an old one.

    Constants of the old model that a node of the new one reads are shared, without a copy.
    """

    def __init__(self, base: Graph) -> None:
        self.base = base
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._weights: dict[str, Array] = {}
        self._tensor_names, self._node_names = names_taken(base.model.proto.graph)

    def keep(self, node: onnx.NodeProto) -> None:
        """Add a node of the old model as it is."""
        self._nodes.append(node)

    def new(self, name: str) -> str:
        """A name for a new tensor: `name`, with underscores appended if the old or new model has such a tensor."""
        return reserved(name, self._tensor_names)

    def new_node(self, name: str) -> str:
        """A name for a new node: `name`, with underscores appended if the old or new model has such a node."""
        return reserved(name, self._node_names)

    def compute(
        self, op_type: str, inputs: Iterable[str], tensor: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node that makes a new tensor, and return the tensor's name, which is `new(tensor)`.

        Args:
            op_type: of the node.
            inputs: names of the tensors that the node reads.
            tensor: the wanted name of the new tensor.
            name: of the node of the old model that is replaced; empty: the node gets a new name.
            domain: of the operator type.
            attributes: of the node.
        """
        tensor = self.new(tensor)
        name = name or self.new_node(f"{tensor}.{op_type}")
        self.produce(op_type, inputs, [tensor], name, domain, **attributes)
        return tensor

    def produce(
        self,
        op_type: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node that makes tensors with given names: of the old model, or from `new`.

        Args:
            op_type: of the node.
            inputs: names of the tensors that the node reads.
            outputs: names of the tensors that the node makes.
            name: of the node of the old model that is replaced, or a name from `new_node`.
            domain: of the operator type.
            attributes: of the node.
        """
        made = helper.make_node(op_type, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        self._nodes.append(made)

    def collect(self, write: Callable[[], None]) -> list[onnx.NodeProto]:
        """The nodes that a function adds to this builder, for the body of a node. Constants stay outside the body."""
        outside, self._nodes = self._nodes, []
        try:
            write()
            return self._nodes
        finally:
            self._nodes = outside

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, and return its name, which is `new(name)`."""
        name = self.new(name)
        self._initializers[name] = initializer(name, value)
        self._weights[name] = value
        return name

    def build(self) -> GraphModel:
        """The new model.

        Shapes of intermediate tensors are left out, since the shapes of the old graph may no longer hold.
        """
        old = self.base.model.proto
        proto = onnx.ModelProto()
        copy_fields(old, proto, leave_out={"graph", "functions", "training_info"})
        copy_fields(old.graph, proto.graph, leave_out={"node", "initializer", "value_info"})
        if _has_contrib(self._nodes) and CONTRIB_DOMAIN not in {each.domain for each in proto.opset_import}:
            proto.opset_import.append(helper.make_opsetid(CONTRIB_DOMAIN, 1))
        proto.graph.node.extend(self._ordered())
        used = names_read(proto.graph) | self.base.inputs
        proto.graph.initializer.extend(each for name, each in self.base.initializers.items() if name in used)
        proto.graph.initializer.extend(each for name, each in self._initializers.items() if name in used)
        weights = MappedWeights(self.base.model.weights)
        weights.update(self._weights)
        return GraphModel(proto, weights, self.base.model.folder)

    def _ordered(self) -> list[onnx.NodeProto]:
        """The nodes, first those that compute constants of the old model.

        The new model may read such a constant earlier than the old one did. Nodes whose constant nothing reads any more
        are left out.
        """
        rest = [node for node in self._nodes if not self.base.computes_constant(node)]
        read = {name for node in rest for name in read_by(node)} | self.base.outputs
        kept = {node.name for node in self.base.computing(read)}
        return [node for node in self._nodes if self.base.computes_constant(node) and node.name in kept] + rest


def with_rewritten(
    graph: Graph, names: Collection[str], write: Callable[[GraphBuilder, onnx.NodeProto], None]
) -> Graph:
    """A graph with other nodes in place of some; the same object if `names` is empty.

    Args:
        graph: is not changed.
        names: of the nodes to be replaced.
        write: adds the nodes that take the place of one; adds none to leave it out.
    """
    if not names:
        return graph
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        if node.name in names:
            write(builder, node)
        else:
            builder.keep(node)
    return Graph(builder.build())


def _has_contrib(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Whether there is an operator of onnxruntime's own, also in a body."""
    return any(
        node.domain == CONTRIB_DOMAIN or any(_has_contrib(body.node) for _, body in bodies(node)) for node in nodes
    )
