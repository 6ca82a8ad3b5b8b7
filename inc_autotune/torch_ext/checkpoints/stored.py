"""A folder of transformers with safetensors, of which tensors are read when they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from inc_autotune.core.arguments import check_path, shown
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.result.model_folder import QUANTIZATION
from inc_autotune.torch_ext.shards import INDEX, WEIGHTS, read_index
from inc_autotune.torch_ext.transformers_folder import CONFIG, checked_description

_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""Of an element, by the names that safetensors has for types."""

_SAMPLES, _SAMPLE = 64, 2**16
"""Pieces of a file that its digest reads, and bytes of each."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, its shape and its bytes."""

    file: Path
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Args:
        folder: of transformers.
        description: its `config.json`.
        tensors: by name.
    """

    folder: Path
    description: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors in memory of their own.

        Raises:
            ModelError: a file cannot be read any more.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        found: dict[str, Tensor] = {}
        for file, inside in by_file.items():
            try:
                with safe_open(str(file), framework="pt") as opened:
                    for name in inside:
                        found[name] = opened.get_tensor(name).clone()  # else the file's pages stay in memory
            except (OSError, SafetensorError) as error:
                raise ModelError(f"checkpoint: {file} cannot be read: {error}.") from error
        return found

    @property
    def files(self) -> list[Path]:
        """Those with tensors."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    @cached_property
    def digest(self) -> str:
        """Of the configuration and of what is in the files: of large ones their size and pieces of them all over."""
        digest = sha256(repr(sorted(self.description.items())).encode())
        for file in self.files:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as opened:
                for index in range(_SAMPLES):
                    opened.seek(size * index // _SAMPLES)
                    digest.update(opened.read(_SAMPLE))
        return digest.hexdigest()


def open_checkpoint(folder: Any) -> Checkpoint:
    """A checkpoint whose files are all there.

    Raises:
        ArgumentError: it is no folder, or has no configuration or no safetensors.
        ModelError: a shard or a tensor that the index names is missing, or the model is quantized already.
    """
    place = check_path(folder, "checkpoint", allowed="the folder of a model of transformers")
    if not place.is_dir():
        raise ArgumentError(
            f"checkpoint={str(place)!r}: there is no such folder. Nothing is fetched: "
            "huggingface_hub.snapshot_download(name) gives one of the hub."
        )
    if not (place / CONFIG).is_file():
        raise ArgumentError(f"checkpoint={str(place)!r}: holds no {CONFIG} of a transformers model.")
    description = checked_description(place)
    if not isinstance(description.get("architectures"), list) or not description["architectures"]:
        raise ModelError(f"{place / CONFIG}: names no 'architectures', so that the class of the model is unknown.")
    if QUANTIZATION in description:
        raise ModelError(
            f"checkpoint={str(place)!r}: is quantized already ({shown(description[QUANTIZATION])}). Give the model in "
            "float32, bfloat16 or float16."
        )
    if (place / INDEX).is_file():
        expected = read_index(place)
        files = sorted(set(expected.values()))
    elif (place / WEIGHTS).is_file():
        expected, files = {}, [WEIGHTS]
    else:
        raise ArgumentError(
            f"checkpoint={str(place)!r}: holds neither {WEIGHTS} nor {INDEX}. Allowed: weights as safetensors; "
            "model.save_pretrained(folder) of transformers writes them."
        )
    missing = [name for name in files if not (place / name).is_file()]
    if missing:
        raise ModelError(
            f"checkpoint={str(place)!r}: {len(missing)} of {len(files)} files that {INDEX} names are missing, the "
            f"first is {missing[0]}. Copy or download them again."
        )
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        tensors |= _listed(place / name)
    lacking = [name for name, file in expected.items() if name not in tensors or tensors[name].file.name != file]
    if lacking:
        raise ModelError(
            f"checkpoint={str(place)!r}: {expected[lacking[0]]} lacks {lacking[0]!r}, and {len(lacking) - 1} other "
            f"tensors are not where {INDEX} says. Copy or download the files again."
        )
    return Checkpoint(place, description, tensors)


def _listed(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file; one that was cut off is refused.

    Raises:
        ModelError: it is no whole safetensors file.
    """
    tensors: dict[str, StoredTensor] = {}
    try:
        with safe_open(str(file), framework="pt") as opened:
            for name in list(opened.keys()):  # it is no mapping
                described = opened.get_slice(name)
                kind, shape = described.get_dtype(), tuple(described.get_shape())
                if kind not in _BYTES:
                    raise ModelError(
                        f"checkpoint: {name} in {file.name} is of type {kind}. Allowed: float32 (F32), bfloat16 (BF16) "
                        "and float16 (F16), and integers and booleans that are no weights."
                    )
                tensors[name] = StoredTensor(file, shape, math.prod(shape) * _BYTES[kind])
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"checkpoint: {file} is no whole safetensors file: {error}. Copy or download it again."
        ) from error
    return tensors
