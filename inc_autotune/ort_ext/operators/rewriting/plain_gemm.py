"""Gemms without scale factors, and with a bias of one value per feature, as integer kernels need them."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_inputs, with_rewritten


def plain_gemms(graph: Graph) -> Graph:
    """Multiply `alpha` into the weights of Gemms and `beta` into their biases, and broadcast biases to one value per
    feature.

    The weight becomes a product of constants, which is computed where it is quantized, see `graph.constants`. Gemms
    whose weight or bias is no constant stay as they are, and so do Gemms that transpose their activation.
    """
    found = {node.name for node in graph.nodes if _can_be_plain(graph, node)}
    scaled: dict[tuple[str, float], str] = {}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        given = attributes(node)
        weight, alpha, bias = node.input[1], given.get("alpha", 1.0), _bias(graph, node)
        if alpha != 1.0:
            if (weight, alpha) not in scaled:
                factor = builder.constant(f"{node.name}.alpha", np.asarray(alpha, np.float32))
                scaled[weight, alpha] = builder.compute("Mul", [weight, factor], f"{weight}.scaled")
            weight = scaled[weight, alpha]
        written_bias = "" if bias is None else builder.constant(f"{node.name}.bias", bias)
        plain = with_inputs(node, {1: weight, 2: written_bias})
        kept = [attribute for attribute in node.attribute if attribute.name not in ("alpha", "beta")]
        del plain.attribute[:]
        plain.attribute.extend(kept)
        builder.keep(plain)

    return with_rewritten(graph, found, write)


def _can_be_plain(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a Gemm with a scale factor or a broadcast bias, and can be written without."""
    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx") or not graph.is_float_constant(node.input[1]):
        return False
    given, bias, features = attributes(node), _bias_name(node), _features(graph, node)
    if given.get("transA", 0) or features is None:
        return False
    if bias is None:
        return bool(given.get("alpha", 1.0) != 1.0)
    shape = graph.shape(bias)
    if not graph.is_float_constant(bias) or shape not in ((), (1,), (features,), (1, 1), (1, features)):
        return False
    return given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or shape != (features,)


def _bias_name(node: onnx.NodeProto) -> str | None:
    return str(node.input[2]) if len(node.input) > 2 and node.input[2] else None


def _bias(graph: Graph, node: onnx.NodeProto) -> FloatArray | None:
    """`beta` times the bias, float32 [features]; None if there is no bias, or `beta` is 0."""
    name, beta = _bias_name(node), attributes(node).get("beta", 1.0)
    if name is None or beta == 0.0:
        return None
    value = graph.constant(name).reshape(-1) * np.float32(beta)
    return np.array(np.broadcast_to(value, (_features(graph, node) or 0,)), np.float32)


def _features(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Length of a row of the product; None if the weight is no constant matrix."""
    shape = graph.shape(node.input[1])
    if shape is None or len(shape) != 2:
        return None
    return shape[0 if attributes(node).get("transB", 0) else 1]
