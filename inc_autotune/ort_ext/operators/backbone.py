"""The part of a graph between its convolutions and matrix products, and what stands before and behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from inc_autotune.ort_ext.graph import Graph, read_by
from inc_autotune.ort_ext.operators.discovery import Operator
from inc_autotune.ort_ext.target import GraphRecipes

PRODUCTS = ("Conv", "MatMul", "Gemm")


def outside_backbone(graph: Graph) -> frozenset[str]:
    """Names of the nodes that have no Conv, MatMul or Gemm before them, or none behind them."""
    after: set[str] = set()
    for node in graph.nodes:  # in the order of the data
        if _is_product(node) or _touches(graph.producers, read_by(node), after):
            after.add(node.name)
    before: set[str] = set()
    for node in reversed(graph.nodes):
        readers = {reader.name for tensor in node.output for reader in graph.consumers.get(tensor, ())}
        if _is_product(node) or readers & before:
            before.add(node.name)
    return frozenset(node.name for node in graph.nodes if node.name not in after & before)


def kept_in_fp32(graph: Graph, operators: Mapping[str, Operator], recipes: GraphRecipes) -> dict[str, str]:
    """The operators that stay in fp32 by a recipe, each with the reason.

    Args:
        graph: the fp32 model.
        operators: that could be quantized, in the order of the graph.
        recipes: what the user asked for.
    """
    products = [name for name, each in operators.items() if each.type in PRODUCTS]
    reasons: dict[str, str] = {}
    if not recipes.pre_post_process_quantization:
        outside = outside_backbone(graph)
        reason = "recipes: pre_post_process_quantization is False"
        reasons |= {name: reason for name in operators if name in outside}
    if products and not recipes.first_conv_or_matmul_quantization:
        reasons[products[0]] = "recipes: first_conv_or_matmul_quantization is False"
    if products and not recipes.last_conv_or_matmul_quantization:
        reasons[products[-1]] = "recipes: last_conv_or_matmul_quantization is False"
    return reasons


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS and node.domain in ("", "ai.onnx")


def _touches(producers: Mapping[str, onnx.NodeProto], tensors: Iterable[str], names: set[str]) -> bool:
    return any(tensor in producers and producers[tensor].name in names for tensor in tensors)
