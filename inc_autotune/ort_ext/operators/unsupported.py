"""Operators with weights that have no quantized form here, and how much of the model they are."""

from __future__ import annotations

import math

import onnx

from inc_autotune.ort_ext.graph.graph import Graph

WITHOUT_KERNEL = ("ConvTranspose", "DeformConv", "GRU", "RNN", "Einsum")
"""onnxruntime has no integer kernels for these on the CPU."""

SMALLEST_SHARE = 0.01
"""Of the weights; what has less is not worth a number."""


def unsupported_reason(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Why an operator with a weight stays in fp32; None for operators without, and for those that may leave it.

    A weight is a constant of two dimensions or more, so that the gains and biases of fused operators are none.
    """
    standard = node.domain in ("", "ai.onnx")
    if standard and node.op_type != "LSTM" and node.op_type not in WITHOUT_KERNEL:
        return None
    if not any(graph.is_float_constant(name) and len(graph.shape(name) or ()) > 1 for name in node.input):
        return None
    if not standard:
        return f"{node.domain} operators stay as they are; give the model as it was before onnxruntime optimized it"
    if node.op_type == "LSTM":
        return "its integer form in onnxruntime, DynamicQuantizeLSTM, is not supported"
    return f"onnxruntime has no integer kernel for {node.op_type}"


def with_share(graph: Graph, name: str, reason: str) -> str:
    """A reason with the share that an operator's weights have in those of the model, where it is one to speak of."""
    node = graph.by_name.get(name)
    if node is None:  # inside a body
        return reason
    total = sum(_bytes(graph, each) for each in graph.initializers)
    share = sum(_bytes(graph, each) for each in set(node.input)) / max(total, 1)
    return f"{reason} ({100 * share:.0f} % of the weights)" if share >= SMALLEST_SHARE else reason


def _bytes(graph: Graph, name: str) -> int:
    """Of a float constant; 0 for every other tensor."""
    return 4 * math.prod(graph.shape(name) or ()) if graph.is_float_constant(name) else 0
