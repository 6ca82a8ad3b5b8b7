"""ReLU and Clip that a quantization makes superfluous."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx

from inc_autotune.core.quantization import QuantizationParameters, quantize
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, with_inputs, with_rewritten
from inc_autotune.ort_ext.operators.bounds import bounds


def without_covered_bounds(graph: Graph, tensors: Container[str]) -> Graph:
    """Leave out every ReLU and Clip whose only reader is a QuantizeLinear that ends at the same limits.

    The integers are the same for every input: if both limits become the smallest and the largest integer, so do all
    values beyond the limits. Without the node in between, a product and its quantization are one integer kernel.

    Args:
        graph: a quantized model.
        tensors: names of tensors whose only reader is a QuantizeLinear; others are not looked at.
    """
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

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        if node.name in read_instead:
            builder.keep(with_inputs(node, {0: read_instead[node.name]}))

    return with_rewritten(graph, dropped | set(read_instead), write)


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
