"""Arrays by name in a safetensors file, written and read without the library of that name.

Source: the format's description in huggingface/safetensors, README.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files.reading import read_bytes
from inc_autotune.core.files.writing import write_file

Arrays = Mapping[str, npt.NDArray[Any]]

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_ALIGNMENT = 8


def write_arrays(path: Path, arrays: Arrays, metadata: Mapping[str, str], argument: str = "path") -> None:
    """Write arrays to one file, which is there completely or not at all.

    Args:
        path: the file; its folder must exist.
        arrays: bool, integers or floats, of any shape.
        metadata: texts about them.
        argument: what gave the path, for messages.

    Raises:
        ArgumentError: nothing can be written there.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": _WORDS[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes())

    write_file(path, write, argument)


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The arrays of a file, and its metadata.

    Raises:
        ArgumentError: the file is no such file.
        OSError: it cannot be read.
    """
    content = read_bytes(path, path.stat().st_size)
    try:
        return _parsed(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArgumentError(f"{path}: is damaged, or no safetensors file: {type(error).__name__}: {error}.") from error


def _parsed(content: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = {str(name): str(text) for name, text in header.pop(_METADATA, {}).items()}
    return dict(_arrays(header, memoryview(content)[8 + size :])), metadata


def _arrays(header: Mapping[str, Any], data: memoryview) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, entry in header.items():
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape, (start, end) = tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
        part = data[start:end]
        if min(shape, default=0) < 0 or len(part) != end - start or len(part) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} has not the bytes of its shape")
        yield name, np.frombuffer(part, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
