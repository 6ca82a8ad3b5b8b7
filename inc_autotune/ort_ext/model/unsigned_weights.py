"""Signed weights of 8 bits as unsigned ones, where products of signed ones saturate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import (
    CONTRIB_DOMAIN,
    LINEAR_TYPES,
    Graph,
    GraphBuilder,
    GraphModel,
    attributes,
    bodies,
    is_depthwise,
    with_inputs,
)
from inc_autotune.ort_ext.target import KERNELS, Kernel, saturates

LARGEST_EXACT = 64
"""No kernel saturates with signed weights up to this: 255 * 64 * 2 fits 16 bits."""

_INTEGER_PRODUCTS = {("MatMulIntegerToFloat", CONTRIB_DOMAIN): (4, 5), ("MatMulInteger", ""): (2, 3)}
"""Places of the zero points of the activation and of the weight among a node's inputs; the weight's own is 1."""

_RECURRENCES = {("DynamicQuantizeLSTM", CONTRIB_DOMAIN): ((1, 9), (2, 11))}
"""Places of each weight and its zero point; the activations are unsigned."""


def with_unsigned_weights(model: GraphModel) -> GraphModel:
    """The model with uint8 in place of those int8 weights whose products would saturate on this processor.

    It computes the same, since a weight and its zero point both grow by 128. Products of uint8 by uint8 are exact on
    every processor, and slower than those by int8 where these saturate.

    Args:
        model: written by this library; not changed.

    Returns:
        The model itself where nothing would saturate, as on every processor with VNNI.
    """
    if all(each.data_type != onnx.TensorProto.INT8 for each in model.proto.graph.initializer):
        return model
    if not any(saturates(kernel, "uint8", "int8") for kernel in KERNELS):
        return model
    graph = Graph(model)
    builder = GraphBuilder(graph)
    unsigned: dict[str, str] = {}

    def converted(node: onnx.NodeProto) -> onnx.NodeProto:
        inputs = {place: node.input[place] for place in _saturating_places(graph, node)}
        for name in inputs.values():
            if name not in unsigned and _is_signed(graph, [name]):
                unsigned[name] = builder.constant(f"{name}.unsigned", _raised(graph.constant(name)))
        changed = with_inputs(node, {place: unsigned.get(name, name) for place, name in inputs.items()})
        for _, body in bodies(changed):
            nodes = [converted(each) for each in body.node]
            del body.node[:]
            body.node.extend(nodes)
        return changed

    for node in graph.nodes:
        builder.keep(converted(node))
    return builder.build() if unsigned else model


def _saturating_places(graph: Graph, node: onnx.NodeProto) -> tuple[int, ...]:
    """Where a node reads a weight whose products saturate, or the zero point of one."""
    key = (node.op_type, node.domain)
    if key in _INTEGER_PRODUCTS:
        activation, weight = _INTEGER_PRODUCTS[key]
        # onnxruntime turns signed activations into unsigned ones only where they are quantized around it.
        unsigned = _dtype(graph, node.input[activation]) == "uint8" and saturates("MatMul", "uint8", "int8")
        return (1, weight) if unsigned and _is_wide(graph, node.input[1]) else ()
    if key in _RECURRENCES and saturates("LSTM", "uint8", "int8"):
        pairs = [pair for pair in _RECURRENCES[key] if _is_wide(graph, node.input[pair[0]])]
        return tuple(place for pair in pairs for place in pair)
    if node.op_type == "DequantizeLinear" and _is_signed(graph, node.input[2:3]):
        return (0, 2) if _saturating_readers(graph, node) and _is_wide_weight(graph, node) else ()
    if node.op_type == "QuantizeLinear" and graph.is_float_constant(node.input[0]):
        readers = graph.consumers.get(node.output[0], ())
        return (2,) if any(_saturating_places(graph, reader) for reader in readers) else ()
    return ()


def _saturating_readers(graph: Graph, dequantize: onnx.NodeProto) -> bool:
    """Whether what a DequantizeLinear makes is the weight of a product that saturates where the weight is wide."""
    weight = dequantize.output[0]
    for reader in graph.consumers.get(weight, ()):
        if reader.op_type not in (*LINEAR_TYPES, "Conv") or reader.input[1] != weight:
            continue
        activation = graph.producers.get(reader.input[0])
        if activation is None or activation.op_type != "DequantizeLinear":
            continue
        if saturates(_kernel(graph, reader, dequantize), _dtype(graph, activation.input[2]), "int8"):
            return True
    return False


def _kernel(graph: Graph, node: onnx.NodeProto, dequantize: onnx.NodeProto) -> Kernel:
    if node.op_type != "Conv":
        return "MatMul"
    return "depthwise Conv" if is_depthwise(node, graph.shape(_stored(graph, dequantize)) or ()) else "Conv"


def _stored(graph: Graph, dequantize: onnx.NodeProto) -> str:
    """The constant behind a DequantizeLinear: integers, or floats that are quantized in the graph."""
    quantize = graph.producers.get(dequantize.input[0])
    stored: str = (dequantize if quantize is None else quantize).input[0]
    return stored


def _is_wide_weight(graph: Graph, dequantize: onnx.NodeProto) -> bool:
    stored = _stored(graph, dequantize)
    if not graph.is_float_constant(stored):
        return _is_wide(graph, stored)
    weight, scale = graph.constant(stored), graph.constant(dequantize.input[1])
    if scale.ndim:
        axis = attributes(dequantize).get("axis", 1)
        scale = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
    return bool(np.rint(np.abs(weight / scale)).max(initial=0) > LARGEST_EXACT)


def _is_wide(graph: Graph, name: str) -> bool:
    if not _is_signed(graph, [name]):
        return False
    values = graph.constant(name)
    return bool(values.max(initial=0) > LARGEST_EXACT or values.min(initial=0) < -LARGEST_EXACT)


def _is_signed(graph: Graph, names: Sequence[str]) -> bool:
    """Whether there is a name, and it is that of a stored constant of int8."""
    return any(name in graph.initializers and _dtype(graph, name) == "int8" for name in names)


def _dtype(graph: Graph, name: str) -> str:
    """Of an activation by its zero point: uint8, unless that is a stored int8."""
    stored = graph.initializers.get(name)
    return "int8" if stored is not None and stored.data_type == onnx.TensorProto.INT8 else "uint8"


def _raised(values: Array) -> Array:
    """Signed bytes plus 128."""
    raised: Array = values.view(np.uint8) ^ np.uint8(128)
    return raised
