"""The operators of a model and who reads what, and the construction of another model from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from inc_autotune.ort_ext.graph_model import GraphModel, bodies, initializer, names_read
from inc_autotune.ort_ext.mapped_weights import MappedWeights

FloatArray: TypeAlias = npt.NDArray[np.float32]
AnyArray: TypeAlias = npt.NDArray[Any]

CONTRIB_DOMAIN = "com.microsoft"


class Graph:
    """A read-only view of a model: its nodes, its constants, and the flow of tensors between them."""

    def __init__(self, model: GraphModel) -> None:
        self.model = model
        self.nodes: Sequence[onnx.NodeProto] = model.proto.graph.node
        self.initializers = {each.name: each for each in model.proto.graph.initializer}
        self.outputs = frozenset(each.name for each in model.proto.graph.output)

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
        found = self.initializers.get(name)
        return None if found is None else tuple(found.dims)

    def is_float_constant(self, name: str) -> bool:
        found = self.initializers.get(name)
        return found is not None and found.data_type == onnx.TensorProto.FLOAT

    def constant(self, name: str) -> AnyArray:
        """The value of a constant, without a copy."""
        return self.model.weights[name]

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
        self._weights: dict[str, AnyArray] = {}
        read = {name for node in base.nodes for name in read_by(node)}
        self._taken = read | base.producers.keys() | base.initializers.keys() | base.outputs

    def keep(self, node: onnx.NodeProto) -> None:
        """Add a node of the old model as it is."""
        self._nodes.append(node)

    def new(self, name: str) -> str:
        """A name for a new tensor: this one, or a longer one where the old model has it."""
        while name in self._taken:
            name += "_"
        return name

    def compute(
        self, op_type: str, inputs: Iterable[str], tensor: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node that makes a new tensor, and return the tensor's name, which is `new(tensor)`."""
        tensor = self.new(tensor)
        self.produce(op_type, inputs, [tensor], name or f"{tensor}.{op_type}", domain, **attributes)
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
        """Add a node that makes tensors of the old model."""
        made = helper.make_node(op_type, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        self._nodes.append(made)

    def constant(self, name: str, value: AnyArray) -> str:
        """Add a constant, once for each name, and return its name, which is `new(name)`."""
        name = self.new(name)
        if name not in self._initializers:
            self._initializers[name] = initializer(name, value)
            self._weights[name] = value
        return name

    def build(self) -> GraphModel:
        """The new model.

        Shapes of intermediate tensors are left out, since those of the old graph may no longer hold.
        """
        old = self.base.model.proto
        proto = onnx.ModelProto(
            ir_version=old.ir_version, producer_name=old.producer_name, producer_version=old.producer_version
        )
        proto.opset_import.extend(old.opset_import)
        if any(node.domain == CONTRIB_DOMAIN for node in self._nodes) and CONTRIB_DOMAIN not in {
            each.domain for each in proto.opset_import
        }:
            proto.opset_import.append(helper.make_opsetid(CONTRIB_DOMAIN, 1))
        proto.metadata_props.extend(old.metadata_props)
        proto.graph.name = old.graph.name
        proto.graph.input.extend(old.graph.input)
        proto.graph.output.extend(old.graph.output)
        proto.graph.node.extend(self._nodes)
        used = names_read(proto.graph)
        proto.graph.initializer.extend(
            each for name, each in self.base.initializers.items() if name in used and name not in self._initializers
        )
        proto.graph.initializer.extend(each for name, each in self._initializers.items() if name in used)
        weights = MappedWeights(self.base.model.weights)
        weights.update(self._weights)
        return GraphModel(proto, weights, self.base.model.folder)


def read_by(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, in the bodies of an If, Loop or Scan too."""
    yield from node.input
    for _, body in bodies(node):
        yield from names_read(body)
