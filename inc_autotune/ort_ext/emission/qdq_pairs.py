"""Additional pairs of QuantizeLinear and DequantizeLinear, which some execution providers need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, GraphModel, attributes, with_inputs

EIGHT_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def weight_pairs(model: GraphModel) -> GraphModel:
    """Store every 8-bit weight in float32, with a QuantizeLinear behind it.

    The float32 values are those that the integers stand for, so the QuantizeLinear gives the same integers. A 32-bit
    bias stays as it is.
    """
    graph = Graph(model)
    builder = GraphBuilder(graph)
    stored: dict[tuple[str, ...], str] = {}
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and _is_weight(graph, node.input[0]):
            values, *parameters = node.input
            axis: dict[str, Any] = attributes(node)
            key = tuple(node.input)
            if key not in stored:
                real = _real_values(graph, node.input, axis.get("axis", 1))
                stored[key] = builder.constant(f"{values}.float", real)
            integers = builder.compute("QuantizeLinear", [stored[key], *parameters], f"{values}.again", **axis)
            builder.produce("DequantizeLinear", [integers, *parameters], node.output, node.name, **axis)
        else:
            builder.keep(node)
    return builder.build()


def dedicated_pairs(model: GraphModel) -> GraphModel:
    """Give every node that reads a quantized activation a pair of its own.

    The first reader keeps the old pair; of an activation that is an output of the model, the output keeps it.
    """
    graph = Graph(model)
    builder = GraphBuilder(graph)
    own: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        builder.keep(_reading(node, own))
        quantize = graph.producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear" or graph.shape(quantize.input[0]) is not None:
            continue
        tensor = node.output[0]
        readers = dict.fromkeys(reader.name for reader in graph.consumers.get(tensor, ()) if tensor in reader.input)
        others = list(readers) if tensor in graph.outputs else list(readers)[1:]
        for number, reader in enumerate(others, start=2):
            real = own.get((quantize.name, quantize.input[0]), quantize.input[0])
            values = builder.compute("QuantizeLinear", [real, *quantize.input[1:]], f"{node.input[0]}.pair{number}")
            pair = [values, *node.input[1:]]
            own[reader, tensor] = builder.compute("DequantizeLinear", pair, f"{tensor}.pair{number}")
    return builder.build()


def _reading(node: onnx.NodeProto, own: Mapping[tuple[str, str], str]) -> onnx.NodeProto:
    if not any((node.name, name) in own for name in node.input):
        return node
    return with_inputs(node, {index: own.get((node.name, name), name) for index, name in enumerate(node.input)})


def _is_weight(graph: Graph, name: str) -> bool:
    return name in graph.initializers and graph.initializers[name].data_type in EIGHT_BITS


def _real_values(graph: Graph, inputs: Any, axis: int) -> FloatArray:
    values, scale, zero_point = (graph.constant(name) for name in inputs)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    integers: Array = values.astype(np.float32) - zero_point.astype(np.float32).reshape(shape if scale.ndim else ())
    return np.asarray(integers * scale.reshape(shape if scale.ndim else ()), np.float32)
