"""Folds batch normalizations into the convolutions before them."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph.graph import Graph, GraphBuilder
from inc_autotune.ort_ext.graph.nodes import attributes


def fold_batch_norms(graph: Graph) -> Graph:
    """Multiply every BatchNormalization that alone reads a Conv into that Conv's weight and bias.

    onnxruntime does so too when it loads a float model, but not with quantized weights, and the weights that come out
    are the ones to be quantized. The Conv keeps its name; what other nodes read of its weight stays as it is.
    """
    folded = {conv.name: norm for norm in graph.nodes if (conv := _conv_before(graph, norm)) is not None}
    if not folded:
        return graph
    dropped = {norm.name for norm in folded.values()}
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        if node.name in folded:
            _write(builder, node, folded[node.name])
        elif node.name not in dropped:
            builder.keep(node)
    return Graph(builder.build())


def _conv_before(graph: Graph, norm: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Conv that a BatchNormalization can be folded into."""
    if norm.op_type != "BatchNormalization" or norm.domain not in ("", "ai.onnx"):
        return None
    if attributes(norm).get("training_mode", 0) or sum(map(bool, norm.output)) != 1:
        return None
    conv = graph.producers.get(norm.input[0])
    if conv is None or conv.op_type != "Conv" or graph.only_consumer(norm.input[0]) is None:
        return None
    constants = [*norm.input[1:], *(name for name in conv.input[1:] if name)]
    return conv if all(map(graph.is_float_constant, constants)) else None


def _write(builder: GraphBuilder, conv: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    graph = builder.base
    gain, shift, mean, variance = (_double(graph, name) for name in norm.input[1:5])
    epsilon = attributes(norm).get("epsilon", 1e-5)
    factor = gain / np.sqrt(variance + epsilon)
    weight = _double(graph, conv.input[1])
    bias = _double(graph, conv.input[2]) if len(conv.input) > 2 and conv.input[2] else 0.0
    changed = onnx.NodeProto()
    changed.CopyFrom(conv)
    changed.output[0] = norm.output[0]
    del changed.input[1:]
    for part, value in (
        ("weight", weight * factor.reshape(-1, *[1] * (weight.ndim - 1))),
        ("bias", (bias - mean) * factor + shift),
    ):
        changed.input.append(builder.constant(f"{conv.name}.folded.{part}", value.astype(np.float32)))
    builder.keep(changed)


def _double(graph: Graph, name: str) -> Array:
    return np.asarray(graph.constant(name), np.float64)
