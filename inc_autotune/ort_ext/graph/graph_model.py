"""An ONNX model in two parts: a small proto without weights, and the weights as arrays."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inc_autotune.core.arrays import Array

LARGEST_INLINE_BYTES = 1024
"""Initializers up to this size keep their data in the proto; larger ones only have a header there."""

_IN_MEMORY = "in_memory"


@dataclass(frozen=True)
class GraphModel:
    """A model whose weights lie outside its proto, so that models share them and copying a graph costs nothing.

    Args:
        proto: the model; each initializer of more than 1 KiB is a header marked EXTERNAL without data.
        weights: values of initializers by name, at least of all headers. It may hold more than the graph uses.
            Read-only; views of the file or of the original proto if possible.
        folder: of the files that headers name: sessions read the files directly, in half the memory. None: all values
            come from `weights`.
    """

    proto: ModelProto
    weights: Mapping[str, Array]
    folder: Path | None = None


def initializer(name: str, value: Array) -> TensorProto:
    """An initializer for the proto of a `GraphModel`; above 1 KiB a header, and the value belongs into `weights`.

    Args:
        name: of the tensor.
        value: an array of any shape, of a dtype that NumPy itself has.
    """
    if value.nbytes <= LARGEST_INLINE_BYTES:
        return numpy_helper.from_array(np.asarray(value), name)
    return header(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def header(name: str, data_type: int, shape: Iterable[int]) -> TensorProto:
    """An initializer without data.

    Args:
        name: of the tensor.
        data_type: a value of `TensorProto.DataType`.
        shape: of the tensor.
    """
    tensor = TensorProto(name=name, data_type=data_type, dims=shape)
    set_location(tensor, {"location": _IN_MEMORY})
    return tensor


def set_location(tensor: TensorProto, entries: Mapping[str, object]) -> None:
    """Mark a tensor EXTERNAL, with entries that tell where its data is: location, offset, length."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def is_header(tensor: TensorProto) -> bool:
    """Whether the tensor has no data of its own, only a place where the data is."""
    return tensor.data_location == TensorProto.EXTERNAL


def headers(proto: ModelProto) -> list[TensorProto]:
    """The initializers that are headers, in the order of the graph."""
    return [tensor for tensor in proto.graph.initializer if is_header(tensor)]


def is_in_file(tensor: TensorProto) -> bool:
    """Whether a header names a file with the tensor's data."""
    return all(entry.key != "location" or entry.value != _IN_MEMORY for entry in tensor.external_data)


def bodies(node: NodeProto) -> list[tuple[str, GraphProto]]:
    """The graphs inside a node with their names: then_branch and else_branch of If, body of Loop and Scan."""
    return [(attribute.name, attribute.g) for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]


def all_nodes(part: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The nodes of a graph or a function, and of all bodies in it."""
    for node in part.node:
        yield node
        for _, body in bodies(node):
            yield from all_nodes(body)


def names_read(graph: GraphProto) -> set[str]:
    """Names of all tensors that nodes read, inside bodies too, and of the graph's outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for _, body in bodies(node):
            names |= names_read(body)
    return names


def names_taken(graph: GraphProto) -> tuple[set[str], set[str]]:
    """Names of all tensors and of all nodes, inside bodies too: no name may mean two things anywhere in a model."""
    tensors = {value.name for group in (graph.input, graph.output, graph.initializer) for value in group}
    tensors |= {tensor.values.name for tensor in graph.sparse_initializer}
    nodes = set()
    for node in graph.node:
        nodes.add(node.name)
        tensors |= {*node.input, *node.output}
        for _, body in bodies(node):
            inner_tensors, inner_nodes = names_taken(body)
            tensors |= inner_tensors
            nodes |= inner_nodes
    return tensors, nodes


def copy_fields(source: Message, target: Message, leave_out: Container[str]) -> None:
    """Copy the fields of a message into an empty one, except `leave_out`, whose data is not copied in between."""
    for field, value in source.ListFields():
        if field.name in leave_out:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def without_unused(proto: ModelProto) -> ModelProto:
    """A copy without initializers that nothing reads: onnxruntime drops them and then misses their names.

    Initializers that are defaults of inputs stay, or callers would have to pass these inputs.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    read = names_read(proto.graph) | {each.name for each in proto.graph.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    if len(kept) < len(proto.graph.initializer):
        del result.graph.initializer[:]
        result.graph.initializer.extend(kept)
    return result


def embedded(model: GraphModel) -> ModelProto:
    """The model as one ordinary proto that holds its weights; below 2 GB, or it cannot be serialized."""
    result = ModelProto()
    result.CopyFrom(model.proto)
    for tensor in headers(result):
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        tensor.raw_data = little_endian(model.weights[tensor.name]).tobytes()
    return result


def little_endian(value: Array) -> Array:
    """The array, contiguous and in the byte order of ONNX; the same object if it is so already."""
    return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))


def embedded_bytes(model: GraphModel) -> int:
    """Approximate size of the model as one proto, in bytes."""
    return int(model.proto.ByteSize()) + sum(model.weights[tensor.name].nbytes + 64 for tensor in headers(model.proto))
