"""ReLU and Clip, which keep values between two constants, and quantizations that do so by themselves."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
import onnx

from inc_autotune.core.quantization.affine import QuantizationParameters, quantize
from inc_autotune.ort_ext.graph.graph import Graph, GraphBuilder
from inc_autotune.ort_ext.graph.graph_model import GraphModel


def bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    """What a node keeps its values between; None where it is no ReLU or Clip, or its limits are not constant."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    limits = [-math.inf, math.inf]
    for index, name in enumerate(node.input[1:3]):
        value = graph.scalar(name) if name else limits[index]
        if value is None:
            return None
        limits[index] = value
    return limits[0], limits[1]


def after_activation(graph: Graph, tensor: str) -> str:
    """The output of the ReLU or Clip that alone reads a tensor; the tensor itself where there is none.

    A Clip whose limits leave out zero does not count: every grid has zero, so that none could replace it.
    """
    reader = graph.only_consumer(tensor)
    if reader is None or reader.input[0] != tensor:
        return tensor
    limits = bounds(graph, reader)
    return str(reader.output[0]) if limits is not None and limits[0] <= 0.0 <= limits[1] else tensor


def without_covered_bounds(model: GraphModel, tensors: Container[str]) -> GraphModel:
    """Leave out every ReLU and Clip that only a QuantizeLinear reads which rounds to within the same limits anyway.

    The integers are the same for every input: where both limits become the smallest and the largest integer, so does
    all that lies beyond them. Without the node in between, a product and its quantization are one integer kernel.

    Args:
        model: a quantized one.
        tensors: what only such a QuantizeLinear reads.
    """
    graph = Graph(model)
    read_instead: dict[str, str] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or node.input[0] not in tensors:
            continue
        tensor = node.input[0]
        while (before := graph.producers.get(tensor)) is not None and _is_covered(graph, before, node):
            dropped.add(before.name)
            tensor = before.input[0]
        if tensor != node.input[0]:
            read_instead[node.name] = tensor
    if not dropped:
        return model
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        if node.name in read_instead:
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = read_instead[node.name]
            builder.keep(changed)
        elif node.name not in dropped:
            builder.keep(node)
    return builder.build()


def _is_covered(graph: Graph, node: onnx.NodeProto, quantization: onnx.NodeProto) -> bool:
    limits = bounds(graph, node)
    if limits is None or graph.only_consumer(node.output[0]) is None:
        return False
    if len(quantization.input) < 3 or any(graph.shape(name) != () for name in quantization.input[1:3]):
        return False
    scale, zero_point = (graph.constant(name) for name in quantization.input[1:3])
    integers = np.iinfo(zero_point.dtype)
    parameters = QuantizationParameters(scale, zero_point.astype(np.int32), int(integers.min), int(integers.max))
    lowest, highest = quantize(np.asarray(limits, np.float32), parameters)
    return bool(lowest == integers.min and highest == integers.max)
