"""Gemms that scale their product or their bias, or broadcast it, written as plain ones, for integer kernels."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.ort_ext.graph.graph import Graph, GraphBuilder, with_rewritten
from inc_autotune.ort_ext.graph.nodes import attributes


def plain_gemms(graph: Graph) -> Graph:
    """Multiply `alpha` into the weights of Gemms and `beta` into their biases, and give every bias one value a feature.

    The weight becomes a product of constants, which is computed where it is quantized, see `derived_constants`. Gemms
    whose weight or bias is no constant stay as they are, and so do those that transpose their activation.
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
        inputs = [node.input[0], weight]
        if bias is not None:
            inputs.append(builder.constant(f"{node.name}.bias", bias))
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        kept = [each for each in node.attribute if each.name not in ("alpha", "beta")]
        del changed.input[:], changed.attribute[:]
        changed.input.extend(inputs)
        changed.attribute.extend(kept)
        builder.keep(changed)

    return with_rewritten(graph, found, write)


def _can_be_plain(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Gemm is not plain, and can be."""
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
    """What is added to the product, one value a feature; None where that is nothing."""
    name, beta = _bias_name(node), attributes(node).get("beta", 1.0)
    if name is None or beta == 0.0:
        return None
    value = graph.constant(name).reshape(-1) * np.float32(beta)
    return np.array(np.broadcast_to(value, (_features(graph, node) or 0,)), np.float32)


def _features(graph: Graph, node: onnx.NodeProto) -> int | None:
    """How many values a row of the product has."""
    shape = graph.shape(node.input[1])
    if shape is None or len(shape) != 2:
        return None
    return shape[0 if attributes(node).get("transB", 0) else 1]
