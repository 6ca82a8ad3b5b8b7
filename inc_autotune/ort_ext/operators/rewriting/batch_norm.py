"""Folds batch normalizations into the convolutions before them."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_inputs, with_rewritten


def fold_batch_norms(graph: Graph) -> Graph:
    """Multiply a BatchNormalization that is the only reader of a Conv or ConvTranspose into its weight and bias.

    onnxruntime does so too when it loads a float model, but not with quantized weights, and the folded weights are the
    ones to be quantized. The Conv keeps its name; other nodes that read its weight read the old one.
    """
    folded = {conv.name: norm for norm in graph.nodes if (conv := _conv_before(graph, norm)) is not None}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        if node.name in folded:
            _write_folded(builder, node, folded[node.name])

    return with_rewritten(graph, {*folded, *(norm.name for norm in folded.values())}, write)


def _conv_before(graph: Graph, norm: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Conv that a BatchNormalization can be folded into."""
    if norm.op_type != "BatchNormalization" or norm.domain not in ("", "ai.onnx"):
        return None
    if attributes(norm).get("training_mode", 0) or sum(map(bool, norm.output)) != 1:
        return None
    conv = graph.producers.get(norm.input[0])
    if conv is None or conv.op_type not in ("Conv", "ConvTranspose") or graph.only_consumer(norm.input[0]) is None:
        return None
    constants = [*norm.input[1:], *(name for name in conv.input[1:] if name)]
    return conv if all(map(graph.is_float_constant, constants)) else None


def _write_folded(builder: GraphBuilder, conv: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    graph = builder.base
    gain, shift, mean, variance = (_double(graph, name) for name in norm.input[1:5])
    epsilon = attributes(norm).get("epsilon", 1e-5)
    factor = gain / np.sqrt(variance + epsilon)
    weight = _double(graph, conv.input[1])
    bias = _double(graph, conv.input[2]) if len(conv.input) > 2 and conv.input[2] else 0.0
    folded_weight = weight * _for_weight(conv, factor, weight)
    folded_bias = (bias - mean) * factor + shift
    inputs = {
        1: builder.constant(f"{conv.name}.folded.weight", folded_weight.astype(np.float32)),
        2: builder.constant(f"{conv.name}.folded.bias", folded_bias.astype(np.float32)),
    }
    changed = with_inputs(conv, inputs)
    changed.output[0] = norm.output[0]
    builder.keep(changed)


def _for_weight(conv: onnx.NodeProto, factor: Array, weight: Array) -> Array:
    """A factor for each output channel, in the shape that multiplies the weight."""
    others = [1] * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return factor.reshape(-1, 1, *others)
    group = attributes(conv).get("group", 1)  # the weight is [in_channels, out_channels / group, ...]
    return np.repeat(factor.reshape(group, -1), weight.shape[0] // group, axis=0).reshape(*weight.shape[:2], *others)


def _double(graph: Graph, name: str) -> Array:
    return np.asarray(graph.constant(name), np.float64)
