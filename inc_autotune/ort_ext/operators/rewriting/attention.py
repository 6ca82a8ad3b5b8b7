"""onnxruntime's fused Attention, written with its projection of query, key and value as an operator of its own."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, Graph, GraphBuilder, attributes, given_input, with_rewritten

_BIAS, _MASK, _PAST, _ATTENTION_BIAS, _PAST_LENGTH = 2, 3, 4, 5, 6
_ROTARY = ("do_rotary", "past_present_share_buffer")


def separate_projections(graph: Graph) -> Graph:
    """Write every Attention as a MatMul, an Add and a MultiHeadAttention, so that the projection can be quantized.

    The MatMul has the name of the Attention. Past keys and values are two tensors of a MultiHeadAttention, one of
    an Attention. An Attention stays as it is if these lie in a buffer of a fixed length, if it has rotary position
    embeddings, or a mask of other values than ones and zeros, or lengths.
    """
    return with_rewritten(graph, {node.name for node in graph.nodes if _is_separable(graph, node)}, _write)


def _is_separable(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Attention" or node.domain != CONTRIB_DOMAIN:
        return False
    # Without a bias onnxruntime's own kernel crashes.
    if not (graph.is_float_constant(node.input[1]) and graph.is_float_constant(given_input(node, _BIAS))):
        return False
    if not _has_plain_mask(graph, given_input(node, _MASK)):
        return False
    if given_input(node, _PAST) and given_input(node, _MASK) and graph.rank(given_input(node, _MASK)) != 2:
        return False
    return not given_input(node, _PAST_LENGTH) and not any(attributes(node).get(name, 0) for name in _ROTARY)


def _has_plain_mask(graph: Graph, mask: str) -> bool:
    """Whether there is no mask, or one that MultiHeadAttention takes: ones and zeros, or one length a sample.

    A mask of one dimension may hold start and end positions too, so it must come from onnxruntime's fused embedding,
    which makes lengths.
    """
    if not mask or graph.rank(mask) in (2, 3):
        return True
    source = graph.producers.get(mask)
    return source is not None and source.op_type == "EmbedLayerNormalization" and source.domain == CONTRIB_DOMAIN


def _write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    given, name = attributes(node), node.name
    features = (builder.base.shape(node.input[1]) or (0, 0))[1]
    sizes = given.get("qkv_hidden_sizes") or [features // 3] * 3
    product = builder.compute("MatMul", node.input[:2], f"{name}.product", name)
    projected = builder.compute("Add", [product, node.input[_BIAS]], f"{name}.projected")
    parts = [builder.new(f"{name}.{part}") for part in ("query", "key", "value")]
    lengths = builder.constant(f"{name}.sizes", np.asarray(sizes, np.int64))
    builder.produce("Split", [projected, lengths], parts, builder.new_node(f"{name}.Split"), axis=-1)
    inputs = [*parts, "", given_input(node, _MASK), given_input(node, _ATTENTION_BIAS), *_past(builder, node)]
    while not inputs[-1]:
        inputs.pop()
    present = node.output[1] if len(node.output) > 1 else ""
    made = [builder.new(f"{present}.{part}") for part in ("key", "value")] if present else []
    kept = {key: given[key] for key in ("num_heads", "unidirectional", "scale", "mask_filter_value") if key in given}
    attention = builder.new_node(f"{name}.MultiHeadAttention")
    builder.produce("MultiHeadAttention", inputs, [node.output[0], *made], attention, CONTRIB_DOMAIN, **kept)
    if present:
        axis = builder.constant(f"{name}.axis", np.asarray([0], np.int64))
        stacked = [builder.compute("Unsqueeze", [each, axis], f"{each}.stacked") for each in made]
        builder.produce("Concat", stacked, [present], builder.new_node(f"{name}.present"), axis=0)


def _past(builder: GraphBuilder, node: onnx.NodeProto) -> list[str]:
    """Names of the past keys and of the past values, [batch, heads, length, size]; empty where there are none."""
    past = given_input(node, _PAST)
    if not past:
        return ["", ""]
    places = [
        builder.constant(f"{node.name}.{part}", np.asarray(index)) for index, part in enumerate(("keys", "values"))
    ]
    return [builder.compute("Gather", [past, place], f"{place}.past", axis=0) for place in places]
