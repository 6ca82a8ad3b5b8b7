"""Processors with and without VNNI, as the library's probe describes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import pytest

from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.graph_model import GraphModel, bodies
from inc_autotune.ort_ext.model import unsigned_weights
from inc_autotune.ort_ext.operators import weight_width
from inc_autotune.ort_ext.target.saturation import Kernel, saturates

SATURATING = {(kernel, activation, "int8") for kernel in ("MatMul", "Conv", "LSTM") for activation in ("uint8", "int8")}
"""What onnxruntime computes wrongly on processors with AVX2 or AVX512 that have no VNNI."""

HAS_VNNI = not saturates("MatMul", "uint8", "int8")


def without_vnni(kernel: Kernel, activation: str, weight: str) -> bool:
    return (kernel, activation, weight) in SATURATING


def with_vnni(kernel: Kernel, activation: str, weight: str) -> bool:
    return False


def pretend(patch: pytest.MonkeyPatch, *, vnni: bool) -> None:
    """Let the library believe that this processor has VNNI, or that it has none."""
    for module in (weight_width, unsigned_weights):
        patch.setattr(module, "saturates", with_vnni if vnni else without_vnni)


def wide_products(model: GraphModel) -> list[str]:
    """Names of the nodes that multiply unsigned activations by signed weights of 8 bits, depthwise convolutions aside.

    Signed activations count where onnxruntime makes unsigned ones of them.
    """
    graph = Graph(model)
    found = []
    for node in _with_bodies(graph.nodes):
        if node.op_type == "DynamicQuantizeLSTM":
            found += [node.name] if any(_is_wide(graph.constant(name)) for name in node.input[1:3]) else []
            continue
        if node.op_type in ("MatMulIntegerToFloat", "MatMulInteger"):
            zero_point = node.input[4 if node.op_type == "MatMulIntegerToFloat" else 2]
            signed = zero_point in graph.initializers and graph.constant(zero_point).dtype == np.int8
            integers = None if signed else graph.constant(node.input[1])
        else:
            integers = _dequantized_weight(graph, node)
        if integers is not None and _is_wide(integers):
            found.append(node.name)
    return found


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, body in bodies(node):
            yield from _with_bodies(body.node)


def _is_wide(integers: np.ndarray) -> bool:
    return integers.dtype == np.int8 and bool(np.abs(integers.astype(int)).max() > 64)


def _dequantized_weight(graph: Graph, node: onnx.NodeProto) -> np.ndarray | None:
    """The integers of a quantized MatMul, Gemm or Conv that is not depthwise."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return None
    sources = [graph.producers.get(name) for name in node.input[:2]]
    if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
        return None
    values, scale, zero_point = sources[1].input
    if values in graph.initializers:
        integers = graph.constant(values)
    else:  # floats with a QuantizeLinear
        axis = next((each.i for each in sources[1].attribute if each.name == "axis"), 0)
        floats = np.moveaxis(graph.constant(graph.producers[values].input[0]), axis, -1)
        integers = np.rint(floats / graph.constant(scale)).astype(graph.constant(zero_point).dtype)
    group = next((each.i for each in node.attribute if each.name == "group"), 1)
    is_depthwise = node.op_type == "Conv" and integers.shape[:2] == (group, 1)
    return None if is_depthwise else integers
