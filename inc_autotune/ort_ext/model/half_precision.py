"""Models that compute in half precision, rewritten to compute in float32 with the same inputs, outputs and weights.

onnxruntime's kernels for the CPU know few operators in half precision: around all others it casts, and multiplies in
float32. Integers take the place of float32 products, so the whole graph is float32 first.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, MutableMapping
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    TypeProto,
    helper,
    numpy_helper,
    shape_inference,
)

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError
from inc_autotune.graphs import reserved
from inc_autotune.ort_ext.graph import all_nodes, bodies, initializer, is_header, is_plain, names_taken

HALF_TYPES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype"})
"""Where Cast, the random operators, EyeLike and the windows name the type of their output."""


def half_type(proto: ModelProto) -> str | None:
    """The half type that a model computes in, by its name; None for models that only store weights so.

    Args:
        proto: a normalized model, whose weights may be only headers.
    """
    graph = proto.graph
    stored = {each.name: each.data_type for each in graph.initializer if each.data_type in HALF_TYPES}
    for value in (*graph.input, *graph.output):
        stored.update(
            (value.name, each.elem_type) for each in _tensor_types(value.type) if each.elem_type in HALF_TYPES
        )
    for node in all_nodes(graph):
        kinds = [stored[name] for name in node.input if name in stored and node.op_type != "Cast"]
        kinds += [stored[name] for name in node.output if name in stored]
        kinds += [kind for each in node.attribute for kind in _attribute_types(each)]
        found = next((HALF_TYPES[kind] for kind in kinds if kind in HALF_TYPES), None)
        if found is not None:
            return found
    return None


def compute_in_float32(proto: ModelProto, weights: MutableMapping[str, Array]) -> None:
    """Let every node compute in float32, in place; float16 weights stay stored as they are, and are cast.

    Args:
        proto: a normalized model, whose weights may be only headers.
        weights: the values of its initializers; gets those of bfloat16, which NumPy does not have, as float32.

    Raises:
        ModelError: a sequence, a map or a sparse tensor of half precision goes in or out of the model.
    """
    graph = proto.graph
    _check_tensors(graph)
    reals = _real_tensors(proto)
    tensors, nodes = names_taken(graph)
    inputs, outputs = ({each.name for each in group if _is_half(each.type)} for group in (graph.input, graph.output))
    given = inputs | _stored_in_half(graph, weights, inputs, outputs)
    computed = outputs - given
    twins = {name: reserved(f"{name}.float32", tensors) for name in sorted(given | computed)}
    _retype(graph)
    _rename(graph, twins)
    halves = {each.name: each.type.tensor_type.elem_type for each in graph.output}
    casts = {
        name: helper.make_node("Cast", [name], [twins[name]], to=TensorProto.FLOAT)
        if name in given
        else helper.make_node("Cast", [twins[name]], [name], to=halves[name])
        for name in twins
    }
    for name, cast in casts.items():
        cast.name = reserved(f"{name}.Cast", nodes)
    changed = [*(casts[name] for name in sorted(given)), *graph.node, *(casts[name] for name in sorted(computed))]
    del graph.node[:]
    graph.node.extend(changed)
    _leave_out_casts(graph, (reals | set(twins.values())) - set(twins))


def _check_tensors(graph: GraphProto) -> None:
    for each in (*graph.input, *graph.output):
        if not each.type.HasField("tensor_type") and _is_half(each.type):
            raise ModelError(
                f"model: {each.name!r} is a {(each.type.WhichOneof('value') or '').removesuffix('_type')} of half "
                "precision. Allowed: tensors. Export the model in float32."
            )
    sparse = next((each for each in graph.sparse_initializer if each.values.data_type in HALF_TYPES), None)
    if sparse is not None:
        raise ModelError(
            f"model: the sparse initializer {sparse.values.name!r} is {HALF_TYPES[sparse.values.data_type]}. Export "
            "the model in float32."
        )


def _stored_in_half(
    graph: GraphProto, weights: MutableMapping[str, Array], inputs: Container[str], outputs: Container[str]
) -> set[str]:
    """Names of the initializers that stay in half precision; small ones, and bfloat16, become float32."""
    stored = set()
    for tensor in graph.initializer:
        if tensor.data_type not in HALF_TYPES or tensor.name in inputs:
            continue
        if tensor.name in outputs or (is_header(tensor) and is_plain(tensor.data_type)):
            stored.add(tensor.name)
            continue
        value = _in_float32(tensor)
        weights[tensor.name] = value
        tensor.CopyFrom(initializer(tensor.name, value))
    return stored


def _retype(graph: GraphProto) -> None:
    """Let nodes, and what they say of types, name float32 where they named half precision."""
    for value in graph.value_info:
        _set_float32(value.type)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and _attribute_types(attribute):
                attribute.i = TensorProto.FLOAT if attribute.i in HALF_TYPES else attribute.i
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALF_TYPES:
                attribute.t.CopyFrom(numpy_helper.from_array(_in_float32(attribute.t), attribute.t.name))
            elif attribute.type == AttributeProto.TYPE_PROTO:
                _set_float32(attribute.tp)
        for _, body in bodies(node):
            for value in (*body.input, *body.output):
                _set_float32(value.type)
            for tensor in body.initializer:
                if tensor.data_type in HALF_TYPES:
                    tensor.CopyFrom(numpy_helper.from_array(_in_float32(tensor), tensor.name))
            _retype(body)


def _rename(graph: GraphProto, twins: dict[str, str]) -> None:
    """Let nodes, inside bodies too, read and write other tensors; what is declared of the old ones is left out."""
    declared = [value for value in graph.value_info if value.name not in twins]
    del graph.value_info[:]
    graph.value_info.extend(declared)
    for node in graph.node:
        node.input[:] = [twins.get(name, name) for name in node.input]
        node.output[:] = [twins.get(name, name) for name in node.output]
        for _, body in bodies(node):
            _rename(body, twins)


def _real_tensors(proto: ModelProto) -> set[str]:
    """Names of the tensors of the outermost graph that are real numbers of at most 32 bits, as far as can be told."""
    graph = shape_inference.infer_shapes(proto).graph
    known = {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}
    return {name for name, kind in known.items() if kind in HALF_TYPES or kind == TensorProto.FLOAT}


def _leave_out_casts(graph: GraphProto, reals: Container[str]) -> None:
    """Take out what cast between half precision and float32, and casts nothing any more.

    onnxruntime would do so too, but not where the result is an output of the model.
    """
    ends = {each.name for each in (*graph.input, *graph.output)} | {each.name for each in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT and node.input[0] in reals:
            source, result = same.get(node.input[0], node.input[0]), node.output[0]
            if result not in ends:
                same[result] = source
                continue
            if source in made and source not in ends:
                same = {name: result if first == source else first for name, first in same.items()} | {source: result}
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    _rename(graph, same)


def _in_float32(tensor: TensorProto) -> Array:
    return np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)


def _is_half(kind: TypeProto) -> bool:
    return any(each.elem_type in HALF_TYPES for each in _tensor_types(kind))


def _tensor_types(kind: TypeProto) -> Iterator[Any]:
    """The type of a tensor, or those of the tensors in a sequence, a map or an optional."""
    name = kind.WhichOneof("value")
    if name in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, name)
    elif name == "map_type":
        yield from _tensor_types(kind.map_type.value_type)
    elif name in ("sequence_type", "optional_type"):
        yield from _tensor_types(getattr(kind, name).elem_type)


def _set_float32(kind: TypeProto) -> None:
    for each in _tensor_types(kind):
        each.elem_type = TensorProto.FLOAT if each.elem_type in HALF_TYPES else each.elem_type


def _attribute_types(attribute: AttributeProto) -> list[int]:
    """The element types that an attribute names."""
    if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
        return [int(attribute.i)]
    if attribute.type == AttributeProto.TENSOR:
        return [int(attribute.t.data_type)]
    return []
