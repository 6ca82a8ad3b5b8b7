"""The nodes of a model, its constants, and which node reads which tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph.constants import Constant, compute, derive
from inc_autotune.ort_ext.graph.graph_model import GraphModel, bodies, names_read

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
        """The nodes that read each tensor; a node that reads a tensor twice is listed twice."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in read_by(node):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def by_name(self) -> Mapping[str, onnx.NodeProto]:
        return {node.name: node for node in self.nodes}

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor; None if several nodes read it, or it is an output of the model."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant; None if the tensor is no constant."""
        found = self._constants.get(name)
        return None if found is None else found.shape

    def is_float_constant(self, name: str) -> bool:
        found = self._constants.get(name)
        return found is not None and found.data_type == onnx.TensorProto.FLOAT

    def constant(self, name: str) -> Array:
        """The value of a constant.

        An initializer, or a view of one, is returned without a copy. Tensors that nodes compute from constants are
        constants too, see `graph.constants`; they are computed at each call.
        """
        node = self._constants[name].node
        if node is not None:
            return compute(node, [self.constant(each) for each in node.input])
        value = self.model.weights.get(name)
        return numpy_helper.to_array(self.initializers[name]) if value is None else value

    def origin(self, name: str) -> Hashable:
        """How a constant is computed, from which initializers; equal for constants that must have the same value."""
        return self._constants[name].origin

    def computed_by(self, name: str) -> str | None:
        """Type of the node that computes a tensor from constants in a way not known here; None for other tensors."""
        return self._computed_otherwise.get(name)

    def computes_constant(self, node: onnx.NodeProto) -> bool:
        """Whether an output of a node is a constant."""
        return not self._computed.isdisjoint(node.output)

    def computing(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that compute the constants among these tensors, in the order of the graph."""
        wanted = set(names)
        found = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output) and self.computes_constant(node):
                found.append(node)
                wanted.update(node.input)
        return found[::-1]

    @cached_property
    def _shapes(self) -> Mapping[str, onnx.TensorShapeProto]:
        """Shapes of tensors between nodes, as far as they can be inferred."""
        graph = onnx.shape_inference.infer_shapes(self.model.proto).graph
        known = [each for each in (*graph.input, *graph.value_info) if each.type.tensor_type.HasField("shape")]
        return {each.name: each.type.tensor_type.shape for each in known}

    def rank(self, tensor: str) -> int | None:
        """Number of dimensions of a tensor between nodes; None if it is not known."""
        shape = self._shapes.get(tensor)
        return None if shape is None else len(shape.dim)

    def sizes(self, tensor: str) -> tuple[int | None, ...] | None:
        """The dimensions of a tensor between nodes, None for those that vary; None if not even the rank is known."""
        shape = self._shapes.get(tensor)
        if shape is None:
            return None
        return tuple(each.dim_value if each.HasField("dim_value") else None for each in shape.dim)

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element; None for every other tensor."""
        shape = self.shape(name)
        if shape is None or int(np.prod(shape)) != 1 or not self.is_float_constant(name):
            return None
        return float(self.constant(name).reshape(()))


def read_by(node: onnx.NodeProto) -> Iterable[str]:
    """Names of the tensors that a node reads, also inside the bodies of an If, Loop or Scan."""
    yield from node.input
    for _, body in bodies(node):
        yield from names_read(body)
