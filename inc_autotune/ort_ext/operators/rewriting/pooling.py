"""Average poolings that onnxruntime must not compute in integers, since its integer kernel is wrong for them."""

from __future__ import annotations

import onnx

from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_rewritten


def has_integer_average(node: onnx.NodeProto) -> bool:
    """Whether onnxruntime's integer kernel of an AveragePool computes the same as its float kernel.

    QLinearAveragePool (1.31) has no dilations. If windows reach beyond the padding, and the padding counts,
    QLinearAveragePool divides by the size of the whole window, AveragePool by the size of the part inside.
    """
    given = attributes(node)
    reaches_beyond = given.get("ceil_mode") and given.get("count_include_pad")
    return not reaches_beyond and all(step == 1 for step in given.get("dilations", ()))


def separate_averages(graph: Graph) -> Graph:
    """Put a Sum of one tensor, which changes nothing, behind every AveragePool without a right integer kernel.

    onnxruntime replaces an AveragePool between a DequantizeLinear and a QuantizeLinear, also where the user's model has
    them. It looks at direct neighbours only, and does not remove a Sum.
    """
    found = {node.name for node in graph.nodes if node.op_type == "AveragePool" and not has_integer_average(node)}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        pooled = builder.compute("AveragePool", node.input, f"{node.output[0]}.pooled", node.name, **attributes(node))
        builder.produce("Sum", [pooled], node.output, f"{node.name}.separate")

    return with_rewritten(graph, found, write)
