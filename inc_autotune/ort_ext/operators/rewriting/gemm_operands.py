"""Gemms that transpose their activation, or whose weight is the first operand."""

from __future__ import annotations

import onnx

from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_inputs, with_rewritten
from inc_autotune.ort_ext.operators.rewriting.fused_products import scaled, swapped


def usual_operands(graph: Graph) -> Graph:
    """Write a Gemm with `transA` as a Transpose and a Gemm, and one whose weight comes first as a MatMul and an Add.

    onnxruntime joins the Transpose and the Gemm again where they stay in fp32.
    """
    found = {node.name for node in graph.nodes if _is_unusual(graph, node)}
    return with_rewritten(graph, found, _write)


def _is_unusual(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx"):
        return False
    first, second = map(graph.is_float_constant, node.input[:2])
    if second:
        return not first and bool(attributes(node).get("transA", 0))
    return first and graph.shape(node.input[1]) is None


def _write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    given = attributes(node)
    if builder.base.is_float_constant(node.input[1]):
        changed = with_inputs(node, {0: swapped(builder, node.input[0], 2)})
        kept = [each for each in node.attribute if each.name != "transA"]
        del changed.attribute[:]
        changed.attribute.extend(kept)
        builder.keep(changed)
        return
    operands = [
        swapped(builder, name, 2) if given.get(key, 0) else name
        for name, key in zip(node.input[:2], ("transA", "transB"), strict=True)
    ]
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
    if alpha != 1.0:
        operands[0] = scaled(builder, operands[0], alpha)
    bias = node.input[2] if len(node.input) > 2 and beta != 0.0 else ""
    if not bias:
        builder.produce("MatMul", operands, node.output, node.name)
        return
    product = builder.compute("MatMul", operands, f"{node.name}.product", node.name)
    added = bias if beta == 1.0 else scaled(builder, bias, beta)
    builder.produce("Add", [product, added], node.output, builder.new_node(f"{node.name}.Add"))
