"""Splits a model into a proto and its weights, which are inside the proto or in external files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph.graph_model import LARGEST_INLINE_BYTES, bodies, copy_fields, header, is_header
from inc_autotune.ort_ext.graph.mapped_weights import FileSection, FileState, MappedWeights

_PLAIN_TYPES = frozenset(
    TensorProto.DataType.Value(name)
    for name in (
        *("FLOAT", "DOUBLE", "FLOAT16", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)


def is_plain(data_type: int) -> bool:
    """Whether NumPy itself has this `TensorProto.DataType`: not bfloat16, 8-bit floats, 4-bit integers and text."""
    return data_type in _PLAIN_TYPES


def split(proto: ModelProto, folder: Path | None) -> tuple[ModelProto, MappedWeights]:
    """A proto without weights, and the values of all initializers that NumPy can hold.

    Values of external data are read-only maps of the file.

    Args:
        proto: the model, without external data loaded; not changed.
        folder: of the external data; None for a model in memory, which cannot have any.

    Raises:
        ModelError: external data is missing, too short or outside the folder, or an initializer is damaged.
    """
    data = _ExternalData(folder)
    result = ModelProto()
    copy_fields(proto, result, leave_out={"graph"})
    copy_fields(proto.graph, result.graph, leave_out={"initializer"})
    weights = MappedWeights()
    for tensor in proto.graph.initializer:
        if not is_plain(tensor.data_type):
            result.graph.initializer.append(data.loaded(tensor))
            continue
        value = data.section(tensor) if is_header(tensor) else _inline_value(tensor)
        weights[tensor.name] = value
        small = math.prod(value.shape) * value.dtype.itemsize <= LARGEST_INLINE_BYTES
        result.graph.initializer.append(data.loaded(tensor) if small else data.header(tensor))
    for tensor in _tensors_in_nodes(result.graph):
        tensor.CopyFrom(data.loaded(tensor))
    return result, weights


def _tensors_in_nodes(graph: GraphProto) -> Iterator[TensorProto]:
    """Tensors with external data in attributes of nodes and in bodies."""
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if is_header(attribute.t))
        for _, body in bodies(node):
            yield from (tensor for tensor in body.initializer if is_header(tensor))
            yield from _tensors_in_nodes(body)


def _inline_value(tensor: TensorProto) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as error:
        raise ModelError(
            f"model: initializer {tensor.name!r} is damaged: {error}. Its shape is {list(tensor.dims)}. Export or copy "
            "the model again."
        ) from error


class _ExternalData:
    """The files with the external data of a model."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def section(self, tensor: TensorProto) -> FileSection:
        """The section of a file that holds the value of a tensor."""
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
        data = self._bytes(tensor, math.prod(tensor.dims) * dtype.itemsize)
        return FileSection(data.path, data.offset, dtype, tuple(tensor.dims), data.state)

    def header(self, tensor: TensorProto) -> TensorProto:
        """The tensor without data; it names its file unless that is a link, which onnxruntime does not follow."""
        result = header(tensor.name, tensor.data_type, tensor.dims)
        if is_header(tensor) and self._folder is not None:
            folder = self._folder.resolve()
            if (folder / _location(tensor).location).resolve().is_relative_to(folder):
                del result.external_data[:]
                result.external_data.extend(tensor.external_data)
        return result

    def loaded(self, tensor: TensorProto) -> TensorProto:
        """A copy of a tensor that holds its data."""
        result = TensorProto()
        result.CopyFrom(tensor)
        if is_header(tensor):
            result.ClearField("data_location")
            del result.external_data[:]
            result.raw_data = self._bytes(tensor).mapped().tobytes()
        return result

    def _bytes(self, tensor: TensorProto, expected: int | None = None) -> FileSection:
        info = _location(tensor)
        path = self._path(tensor.name, info.location)
        state = FileState.of(path)
        size = state.size
        start = info.offset or 0
        length = info.length or expected
        if length is None:
            length = size - start
        if expected is not None and length != expected:
            raise ModelError(
                f"model: initializer {tensor.name!r} has {length} bytes of external data, but its shape "
                f"{list(tensor.dims)} needs {expected}. The model is damaged; export it again."
            )
        if start + length > size:
            raise ModelError(
                f"model: {info.location!r}, the file with its external data, has {size} bytes, but initializer "
                f"{tensor.name!r} lies at {start} to {start + length}. The file is truncated or belongs to another "
                "model; copy it again."
            )
        return FileSection(path, start, np.dtype(np.uint8), (length,), state)

    def _path(self, name: str, location: str) -> Path:
        if self._folder is None:
            raise ModelError(
                f"model: initializer {name!r} is in the file {location!r}, but the model was given in memory, so the "
                "folder of that file is unknown. Give the path of the model."
            )
        parts = PureWindowsPath(location).parts  # it knows both separators
        if not location or ".." in parts or PureWindowsPath(location).anchor or PurePosixPath(location).is_absolute():
            raise ModelError(
                f"model: initializer {name!r} is in the file {location!r}, outside the folder of the model. Allowed: a "
                "file beside the model. Put it there and save the model with that location."
            )
        path = self._folder / location
        if not path.is_file():
            raise ModelError(
                f"model: {str(path)!r} is missing, the file with the data of initializer {name!r}. Put it beside the "
                "model; a model with external data consists of all its files."
            )
        return path


def _location(tensor: TensorProto) -> ExternalDataInfo:
    try:
        return ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelError(
            f"model: initializer {tensor.name!r} has external data at an impossible place: {error}. Export it again."
        ) from error
