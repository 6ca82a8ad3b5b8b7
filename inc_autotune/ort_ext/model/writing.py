"""Writes a model of any size to disk."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import ModelProto

from inc_autotune.core.arguments import check_file
from inc_autotune.core.arrays import Array
from inc_autotune.core.files import Content, put, sync_folder, write_files, write_temporary, writing
from inc_autotune.ort_ext.graph import (
    GraphModel,
    embedded,
    embedded_bytes,
    headers,
    little_endian,
    set_location,
    without_unused,
)

logger = logging.getLogger(__name__)

LARGEST_EMBEDDED = 2**31 - 2**24
"""Bytes up to which the weights lie in the model's own file: protobuf's 2 GB less some room."""

_PAGE = 4096
_CHUNK = 2**24


def write_model(
    proto: ModelProto,
    weights: Mapping[str, Array],
    path: str | Path,
    *,
    beside: Mapping[Path, Content] | None = None,
    largest_embedded: int = LARGEST_EMBEDDED,
) -> None:
    """Write a model; one that is there is replaced in one step, and stays as it was when anything fails.

    Above `largest_embedded` bytes the weights go to a second file beside the model, in chunks, so that memory is needed
    for one chunk only. That file is named `model.onnx.<digest>.data`, with a hash of its content: the old model keeps
    its own data until the new model is in place. The same model gives the same bytes and names.

    Args:
        proto: the graph; values of initializers that are only a header are looked up in `weights`.
        weights: these values; more than the graph uses is allowed.
        path: the file; its folder must exist.
        beside: contents of files that belong to the model, by path in the same folder.
        largest_embedded: bytes that a model in one file may have.

    Raises:
        ArgumentError: the folder does not exist, `path` is no file, or nothing can be written there.
    """
    path = check_file(path)
    path = path.resolve() if path.is_symlink() else path
    beside = beside or {}
    model = GraphModel(without_unused(proto), weights)
    if embedded_bytes(model) <= largest_embedded:
        write_files(path, partial(_write_proto, embedded(model)), beside)
        _remove_data(path)
        return
    with writing(path):
        temporary, digest = _write_weights(model, path)
        data = path.with_name(f"{path.name}.{digest}.data")
        is_new = not data.exists()
        if not is_new:  # the same content again: who reads the file need not notice
            os.utime(temporary, ns=(data.stat().st_atime_ns, data.stat().st_mtime_ns))
        put(temporary, data)
    try:
        with writing(path):
            sync_folder(path.parent)
        _set_file(model.proto, data.name)
        write_files(path, partial(_write_proto, model.proto), beside)
    except BaseException:
        if is_new and not (path.is_file() and data.name.encode() in path.read_bytes()):  # it may be in place already
            data.unlink(missing_ok=True)
        raise
    _remove_data(path, but=data.name)


def _write_proto(proto: ModelProto, file: BinaryIO) -> None:
    file.write(proto.SerializeToString(deterministic=True))


def _set_file(proto: ModelProto, name: str) -> None:
    for tensor in headers(proto):
        set_location(tensor, {**{entry.key: entry.value for entry in tensor.external_data}, "location": name})


def _write_weights(model: GraphModel, path: Path) -> tuple[Path, str]:
    """Write all weights to a temporary file; their offsets are noted in the proto.

    Returns:
        The file, and a hash of its content.
    """
    digest = blake2b(digest_size=8)

    def write(file: BinaryIO) -> None:
        position = 0

        def append(data: memoryview) -> None:
            nonlocal position
            position += len(data)
            digest.update(data)
            file.write(data)

        for tensor in headers(model.proto):
            append(memoryview(bytes(-position % _PAGE)))  # whole pages can be mapped
            value = little_endian(model.weights[tensor.name]).reshape(-1).view(np.uint8).data
            set_location(tensor, {"location": "", "offset": position, "length": len(value)})
            for start in range(0, len(value), _CHUNK):
                append(value[start : start + _CHUNK])

    return write_temporary(path, write), digest.hexdigest()


def _remove_data(path: Path, but: str | None = None) -> None:
    """Remove the data files of models that `path` was before."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name != but:
            try:
                file.unlink()
            except OSError as error:  # on Windows while a source model is mapped from it; it does no harm
                logger.warning("%s belongs to no model any more and cannot be removed: %s", file, error)
