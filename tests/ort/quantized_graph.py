"""Reads the pairs of QuantizeLinear and DequantizeLinear out of a quantized model, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Pair:
    """A DequantizeLinear with what it reads.

    Attributes:
        kind: "activation", "weight" or "bias".
        tensor: its output.
        readers: the nodes that read it; "" stands for the caller of the model.
        dtype: of the integers.
        scale: its value.
        zero_point: its value; None where it has none.
        axis: of its scales; None where there is one scale.
        stored: the constant behind a weight or bias, as it is stored.
    """

    kind: str
    tensor: str
    readers: tuple[str, ...]
    dtype: type[np.generic]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic] | None
    axis: int | None
    stored: NDArray[np.generic] | None


class QuantizedGraph:
    """A model with its constants, nodes by name and pairs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in model.graph.node}
        assert len(self.nodes) == len(model.graph.node)
        self.outputs = {output.name for output in model.graph.output}
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.types = [node.op_type for node in model.graph.node]
        self.domains = {node.domain for node in model.graph.node} | {each.domain for each in model.opset_import}
        self.pairs = [self._pair(node) for node in model.graph.node if node.op_type == "DequantizeLinear"]

    def of_kind(self, kind: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.kind == kind]

    def readers(self, tensor: str) -> tuple[str, ...]:
        found = [node.name for node in self.nodes.values() if tensor in node.input]
        return (*found, *([""] if tensor in self.outputs else []))

    def reader_types(self, tensor: str) -> list[str]:
        return [self.nodes[name].op_type for name in self.readers(tensor) if name]

    def _pair(self, node: onnx.NodeProto) -> Pair:
        values, scale_name, *rest = node.input
        stored = self.constants.get(values)
        if stored is None:
            quantize = self.producers[values]
            assert quantize.op_type == "QuantizeLinear"
            assert list(quantize.input[1:]) == list(node.input[1:])
            stored = self.constants.get(quantize.input[0])
        zero_point = self.constants[rest[0]] if rest else None
        scale = self.constants[scale_name]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        dtype = np.dtype(np.int32) if zero_point is None else zero_point.dtype
        kind = "activation" if stored is None else "bias" if dtype == np.int32 else "weight"
        axis = attributes.get("axis", 1) if scale.ndim else None
        tensor = node.output[0]
        return Pair(kind, tensor, self.readers(tensor), dtype.type, scale, zero_point, axis, stored)
