"""The operators of a model and who reads what, and the construction of another model from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph.constants import Constant, compute, derive
from inc_autotune.ort_ext.graph.graph_model import GraphModel, bodies, copy_fields, initializer, names_read, names_taken
from inc_autotune.ort_ext.graph.mapped_weights import MappedWeights

CONTRIB_DOMAIN = "com.microsoft"


class Graph:
    """A read-only view of a model: its nodes, its constants, and the flow of tensors between them."""

    def __init__(self, model: GraphModel) -> None:
        self.model = model
        self.nodes: Sequence[onnx.NodeProto] = model.proto.graph.node
        self.initializers = {each.name: each for each in model.proto.graph.initializer}
        self.inputs = frozenset(each.name for each in model.proto.graph.input)
        self.outputs = frozenset(each.name for each in model.proto.graph.output)
        self.sparse = frozenset(each.values.name for each in model.proto.graph.sparse_initializer)
        self._constants = {
            each.name: Constant(each.data_type, tuple(each.dims), each.name)
            for each in model.proto.graph.initializer
            if each.name not in self.inputs
        }
        self._computed_otherwise = derive(self.nodes, self._constants, self.constant)
        self._computed = frozenset(name for name, each in self._constants.items() if each.node is not None)

    @cached_property
    def producers(self) -> Mapping[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def consumers(self) -> Mapping[str, Sequence[onnx.NodeProto]]:
        """The nodes that read each tensor; one that reads it twice stands twice."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in read_by(node):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def by_name(self) -> Mapping[str, onnx.NodeProto]:
        return {node.name: node for node in self.nodes}

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None where there are more, or it is an output of the model."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant; None where the tensor is not constant."""
        found = self._constants.get(name)
        return None if found is None else found.shape

    def is_float_constant(self, name: str) -> bool:
        found = self._constants.get(name)
        return found is not None and found.data_type == onnx.TensorProto.FLOAT

    def constant(self, name: str) -> Array:
        """The value of a constant, without a copy where it is stored, or a view of what is.

        What nodes compute from constants is a constant too, see `derived_constants`, and is computed at each call.
        """
        node = self._constants[name].node
        if node is not None:
            return compute(node, [self.constant(each) for each in node.input])
        value = self.model.weights.get(name)
        return numpy_helper.to_array(self.initializers[name]) if value is None else value

    def origin(self, name: str) -> Hashable:
        """What a constant is made of: equal for two that have the same value because they are the same thing."""
        return self._constants[name].origin

    def computed_by(self, name: str) -> str | None:
        """Type of the node that computes a tensor from constants, where its value is not known; else None."""
        return self._computed_otherwise.get(name)

    def computes_constant(self, node: onnx.NodeProto) -> bool:
        """Whether the one output of a node is a constant."""
        return not self._computed.isdisjoint(node.output)

    def computing(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that constants among these tensors are computed by, in the order of the graph."""
        wanted = set(names)
        found = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output) and self.computes_constant(node):
                found.append(node)
                wanted.update(node.input)
        return found[::-1]

    @cached_property
    def _shapes(self) -> Mapping[str, onnx.TensorShapeProto]:
        """Shapes of the tensors between nodes, as far as they can be inferred."""
        graph = onnx.shape_inference.infer_shapes(self.model.proto).graph
        known = [each for each in (*graph.input, *graph.value_info) if each.type.tensor_type.HasField("shape")]
        return {each.name: each.type.tensor_type.shape for each in known}

    def rank(self, tensor: str) -> int | None:
        """Number of dimensions of a tensor between nodes; None where it is not known."""
        shape = self._shapes.get(tensor)
        return None if shape is None else len(shape.dim)

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element; None for every other tensor."""
        shape = self.shape(name)
        if shape is None or int(np.prod(shape)) != 1 or not self.is_float_constant(name):
            return None
        return float(self.constant(name).reshape(()))


class GraphBuilder:
    """Collects the nodes and constants of a new model with the inputs and outputs of an old one.

    Constants of the old model are taken over where a node reads them, without a copy.
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
        """A name for a new tensor: this one, or a longer one where a tensor of the old or the new model has it."""
        return _reserved(name, self._tensor_names)

    def new_node(self, name: str) -> str:
        """The same for a node."""
        return _reserved(name, self._node_names)

    def compute(
        self, op_type: str, inputs: Iterable[str], tensor: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node that makes a new tensor, and return the tensor's name, which is `new(tensor)`.

        `name` is that of the node of the old model whose place it takes, or empty.
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
        """Add a node that makes tensors of the old model.

        `name` is that of the node of the old model whose place it takes, or one from `new_node`.
        """
        made = helper.make_node(op_type, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        self._nodes.append(made)

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, and return its name, which is `new(name)`."""
        name = self.new(name)
        self._initializers[name] = initializer(name, value)
        self._weights[name] = value
        return name

    def build(self) -> GraphModel:
        """The new model.

        Shapes of intermediate tensors are left out, since those of the old graph may no longer hold.
        """
        old = self.base.model.proto
        proto = onnx.ModelProto()
        copy_fields(old, proto, leave_out={"graph", "functions", "training_info"})
        copy_fields(old.graph, proto.graph, leave_out={"node", "initializer", "value_info"})
        if any(node.domain == CONTRIB_DOMAIN for node in self._nodes) and CONTRIB_DOMAIN not in {
            each.domain for each in proto.opset_import
        }:
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

        Who reads a constant may stand before the place it was read at, and those that nobody reads any more are left
        out.
        """
        rest = [node for node in self._nodes if not self.base.computes_constant(node)]
        read = {name for node in rest for name in read_by(node)} | self.base.outputs
        kept = {node.name for node in self.base.computing(read)}
        return [node for node in self._nodes if self.base.computes_constant(node) and node.name in kept] + rest


def with_rewritten(
    graph: Graph, names: Collection[str], write: Callable[[GraphBuilder, onnx.NodeProto], None]
) -> Graph:
    """The graph with other nodes in place of some; itself where there are none.

    Args:
        graph: stays as it is.
        names: of the nodes to be replaced.
        write: adds what stands in the place of a node.
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


def read_by(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, in the bodies of an If, Loop or Scan too."""
    yield from node.input
    for _, body in bodies(node):
        yield from names_read(body)


def _reserved(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
