"""ReLU and Clip, which keep values between two constants."""

from __future__ import annotations

import math

import onnx

from inc_autotune.ort_ext.graph import Graph


def bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    """The smallest and largest value that a ReLU or Clip lets through.

    Returns:
        None if the node is no ReLU or Clip, or its limits are no constants.
    """
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
    """The output of the ReLU or Clip that is the only reader of a tensor; the tensor itself if there is none.

    A Clip whose range does not include zero does not count: every integer grid has zero, so no grid could replace it.
    """
    reader = graph.only_consumer(tensor)
    if reader is None or reader.input[0] != tensor:
        return tensor
    limits = bounds(graph, reader)
    return str(reader.output[0]) if limits is not None and limits[0] <= 0.0 <= limits[1] else tensor
