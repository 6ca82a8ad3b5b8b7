"""Weights by name, of which those in files take memory only while somebody uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inc_autotune.ort_ext.graph_model import Array


@dataclass(frozen=True)
class FileSection:
    """A tensor in a file.

    Args:
        path: of the file.
        offset: bytes before the tensor.
        dtype: of its elements, with their byte order.
        shape: of the tensor.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def mapped(self) -> Array:
        """A read-only view of the file; copied where the file does not align it for the processor."""
        if 0 in self.shape:  # an empty section cannot be mapped
            return np.empty(self.shape, self.dtype)
        mapped: Any = np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)
        return np.require(np.asarray(mapped), requirements="A")


class MappedWeights(MutableMapping[str, Array]):
    """Arrays and sections of files, all of which read as arrays.

    A section is mapped anew at each access: pages that were read count as memory of the process until nobody holds the
    array any more. One map for the whole run would grow to all weights.

    Args:
        base: what to begin with; sections stay sections.
    """

    def __init__(self, base: Mapping[str, Array] | None = None) -> None:
        given = {} if base is None else base
        self._values: dict[str, Array | FileSection] = dict(
            given._values if isinstance(given, MappedWeights) else given
        )

    def __getitem__(self, name: str) -> Array:
        value = self._values[name]
        return value.mapped() if isinstance(value, FileSection) else value

    def __setitem__(self, name: str, value: Array | FileSection) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
