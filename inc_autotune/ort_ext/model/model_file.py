"""Reads a model from a path or from memory into a proto, or says why that is impossible."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.json_format import ParseError as JsonError
from google.protobuf.message import DecodeError
from google.protobuf.text_format import ParseError as TextError
from onnx import ModelProto, TensorProto, helper

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.ort_ext.graph import is_header, is_plain

ALLOWED_MODELS = "a path, the bytes of a model, an onnx.ModelProto, or what torch.onnx.export(dynamo=True) returns"

LARGEST_PROTO = 2**31 - 1
"""Bytes that protobuf can read and write as one message."""

_OTHER_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint or a .keras file"),
    (4, b"ORTM", "in the ORT format, which is optimized for one machine already"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89HDF", "an HDF5 file, such as Keras weights"),
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the model itself; run `git lfs pull`"),
)


@dataclass(frozen=True)
class ModelFile:
    """A proto, and where it came from.

    Args:
        proto: with its external data not loaded. It may be the user's object.
        path: its file; None for a model in memory.
    """

    proto: ModelProto
    path: Path | None

    @property
    def folder(self) -> Path | None:
        """Where the model's external data is."""
        return None if self.path is None else self.path.parent


def read_proto(model: Any, largest: int = LARGEST_PROTO, *, argument: str = "model") -> ModelFile:
    """The model as a proto.

    Args:
        model: one of `ALLOWED_MODELS`.
        largest: bytes that a model in memory may have.
        argument: what a path was given as, for messages.

    Raises:
        ArgumentError: it is none of these, or there is no such file.
        ModelError: it is not ONNX, truncated, or too large to be given in memory.
    """
    model = getattr(model, "model_proto", model)
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        name = f"{argument}={str(path)!r}"
        _check_file(path, name)
        return ModelFile(_check_filled(_read_file(path, name), name), path)
    if isinstance(model, (bytes, bytearray, memoryview)):
        _check_size(len(model), largest, "bytes")
        return ModelFile(_check_filled(_parse(bytes(model), "model"), "model"), None)
    if isinstance(model, ModelProto):
        _check_size(sum(_inline_bytes(tensor) for tensor in model.graph.initializer), largest, "a ModelProto")
        return ModelFile(_check_filled(model, "model"), None)
    raise ArgumentError(f"model={shown(model)}: not an ONNX model. Allowed: {ALLOWED_MODELS}.{_remedy(model)}")


def _remedy(model: object) -> str:
    if type(model).__module__.startswith("onnxruntime."):
        return " A session does not give its model back: pass the file it was made from."
    if callable(model) and hasattr(model, "state_dict"):
        return " Export it first: torch.onnx.export(model, example_inputs, dynamo=True)."
    return ""


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        found = sorted(each.name for each in path.glob("*.onnx"))
        hint = f" It contains {', '.join(found[:5])}." if found else ""
        raise ArgumentError(f"{name}: is a directory. Give the path of the .onnx file.{hint}")
    if not path.exists():
        raise ArgumentError(f"{name}: there is no such file. Current directory: {Path.cwd()}.")


def _read_file(path: Path, name: str) -> ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, JsonError, TextError, UnicodeDecodeError) as error:
        with path.open("rb") as file:
            start = file.read(64)
        raise _not_onnx(start, path.stat().st_size, name) from error


def _parse(data: bytes, argument: str) -> ModelProto:
    try:
        proto: ModelProto = ModelProto.FromString(data)
    except DecodeError as error:
        raise _not_onnx(data[:64], len(data), argument) from error
    return proto


def _not_onnx(start: bytes, size: int, argument: str) -> ModelError:
    for offset, mark, name in _OTHER_FORMATS:
        if start[offset:].startswith(mark):
            return ModelError(f"{argument}: is {name}. Allowed: an .onnx file; export the model to ONNX.")
    return ModelError(
        f"{argument}: its {size} bytes cannot be read as an ONNX model. It is truncated or in another format. Copy or "
        "export it again, and compare the size."
    )


def _check_filled(proto: ModelProto, argument: str) -> ModelProto:
    """What parses by accident has no nodes: an empty file, one cut before the graph, a message of another kind."""
    if not proto.ir_version or not proto.graph.node:
        raise ModelError(
            f"{argument}: holds no graph. It is empty, truncated or in another format. Copy or export the model again."
        )
    return proto


def _check_size(size: int, largest: int, form: str) -> None:
    if size > largest:
        raise ModelError(
            f"model: has {size / 2**30:.1f} GiB as {form}. ONNX models in memory end at 2 GiB. Save it with external "
            "data, onnx.save(model, path, save_as_external_data=True), and give the path."
        )


def _inline_bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor in its proto; from its shape, since asking the proto would copy the data."""
    if is_header(tensor) or not is_plain(tensor.data_type):
        return 0
    itemsize: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims)) * itemsize
