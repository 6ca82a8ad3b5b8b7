"""Weights by name, of which those in files take memory only while somebody uses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError


@dataclass(frozen=True)
class FileState:
    """By what a file is recognized: another one in its place, or a new content, has other values.

    Args:
        size: in bytes.
        modified: when it was last written, in nanoseconds.
    """

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """What a file is like now.

        Raises:
            OSError: there is no such file, or it cannot be looked at.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class FileSection:
    """A tensor in a file.

    Args:
        path: of the file.
        offset: bytes before the tensor.
        dtype: of its elements, with their byte order.
        shape: of the tensor.
        state: what the file was like when its model was read; None where that does not matter.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    state: FileState | None = None

    def check(self) -> None:
        """Find out whether the file still is the one that the model was read with.

        Raises:
            ModelError: it is gone, or was written again.
        """
        try:
            unchanged = self.state is None or FileState.of(self.path) == self.state
        except OSError as error:
            raise ModelError(
                f"model: {str(self.path)!r}, the file with its weights, cannot be read any more: {error}. A model with "
                "external data reads it when a session is made or it is saved; put the file back, or read the model "
                "again."
            ) from error
        if not unchanged:
            raise ModelError(
                f"model: {str(self.path)!r}, the file with its weights, was written since the model was read. What was "
                "found out does not hold for other weights: read and tune the model again, or put the old file back."
            )

    def mapped(self) -> Array:
        """A read-only view of the file; copied where the file does not align it for the processor.

        Raises:
            ModelError: see `check`.
        """
        if 0 in self.shape:  # an empty section cannot be mapped
            return np.empty(self.shape, self.dtype)
        self.check()
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

    def check(self, names: Iterable[str]) -> None:
        """`FileSection.check` of those of these weights that are in files, for who reads the files by other means.

        Raises:
            ModelError: see there.
        """
        sections = [value for name in names if isinstance(value := self._values[name], FileSection)]
        for section in {each.path: each for each in sections}.values():
            section.check()
