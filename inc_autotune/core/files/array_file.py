"""Arrays by name in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files.writing import write_file

Arrays = Mapping[str, npt.NDArray[Any]]


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
    # The library writes the bytes as they lie, so that a transposed array would come back as another.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, dict(metadata))
    write_file(path, content, argument)


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The arrays of a file, in the order of their names, and its metadata.

    Raises:
        ArgumentError: the file is no such file.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ArgumentError(f"{path}: is damaged, or no safetensors file: {error}.") from error
