"""Operators as they are between integer ones: integers go in and come out, whichever kernel computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, GraphModel

Form: TypeAlias = tuple[GraphModel, dict[str, Array]]
"""A model and its inputs."""


def between_integers(floats: Graph, quantized: GraphModel, values: Mapping[str, Array]) -> tuple[Form, Form]:
    """Both forms of an operator as models from integers to integers.

    Args:
        floats: the operator in fp32.
        quantized: the same with a QuantizeLinear behind its inputs and a DequantizeLinear before its outputs.
        values: its float inputs.

    Returns:
        The float form, with a DequantizeLinear before it and a QuantizeLinear behind; and the quantized one, without
        those that it has.
    """
    graph = Graph(quantized)
    first = dict(_first(graph))
    last = dict(_last(graph))
    given = {name: _quantized(graph, first[name], value) if name in first else value for name, value in values.items()}
    return _with_pairs(floats, graph, first, last, given), _without_ends(graph, first, last, given)


def _first(graph: Graph) -> Iterator[tuple[str, onnx.NodeProto]]:
    """What quantizes each input that is read by nothing else."""
    for name in graph.inputs:
        readers = graph.consumers.get(name, ())
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            yield name, readers[0]


def _last(graph: Graph) -> Iterator[tuple[str, onnx.NodeProto]]:
    """What dequantizes each output that nothing else reads."""
    for name in graph.outputs:
        node = graph.producers[name]
        if node.op_type == "DequantizeLinear" and name not in graph.consumers:
            yield name, node


def _quantized(graph: Graph, quantize: onnx.NodeProto, value: Array) -> Array:
    scale, zero_point = (graph.constant(name) for name in quantize.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    integers: Array = np.clip(np.rint(value / scale) + zero_point, limits.min, limits.max)
    return integers.astype(zero_point.dtype)


def _with_pairs(
    floats: Graph,
    graph: Graph,
    first: Mapping[str, onnx.NodeProto],
    last: Mapping[str, onnx.NodeProto],
    given: Mapping[str, Array],
) -> Form:
    builder = GraphBuilder(floats)

    def parameters(node: onnx.NodeProto) -> list[str]:
        return [builder.constant(name, graph.constant(name)) for name in node.input[1:3]]

    inputs = {name: builder.new(f"{name}.integers") for name in first}
    outputs = {name: builder.new(f"{name}.integers") for name in last}
    for name, node in first.items():
        builder.produce(
            "DequantizeLinear", [inputs[name], *parameters(node)], [name], builder.new_node(f"{name}.first")
        )
    for node in floats.nodes:
        builder.keep(node)
    for name, node in last.items():
        builder.produce("QuantizeLinear", [name, *parameters(node)], [outputs[name]], builder.new_node(f"{name}.last"))
    return _with_ends(builder.build(), given, inputs, outputs)


def _without_ends(
    graph: Graph,
    first: Mapping[str, onnx.NodeProto],
    last: Mapping[str, onnx.NodeProto],
    given: Mapping[str, Array],
) -> Form:
    builder = GraphBuilder(graph)
    dropped = {node.name for node in (*first.values(), *last.values())}
    for node in graph.nodes:
        if node.name not in dropped:
            builder.keep(node)
    inputs = {name: node.output[0] for name, node in first.items()}
    return _with_ends(builder.build(), given, inputs, {name: node.input[0] for name, node in last.items()})


def _with_ends(
    model: GraphModel, given: Mapping[str, Array], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Form:
    """The model with other tensors as its inputs and outputs, by the names of the old ones."""
    graph = model.proto.graph
    renamed = {inputs.get(name, name): value for name, value in given.items()}
    ends = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in renamed.items()
    ]
    made = [helper.make_empty_tensor_value_info(outputs.get(each.name, each.name)) for each in graph.output]
    del graph.input[:], graph.output[:]
    graph.input.extend(ends)
    graph.output.extend(made)
    return model, renamed
