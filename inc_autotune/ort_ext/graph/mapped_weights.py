"""Weights by name; weights in files take memory only while they are in use."""

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
    """Recognizes a file: another file in its place, or new content, has another state.

    Args:
        size: in bytes.
        modified: time of the last write, in nanoseconds.
    """

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The present state of a file.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class FileSection:
    """A tensor in a file.

    Args:
        path: of the file.
        offset: bytes before the tensor.
        dtype: of the elements, with their byte order.
        shape: of the tensor.
        state: of the file when its model was read; None: the file is not checked.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    state: FileState | None = None

    def check(self) -> None:
        """Make sure that the file has not changed since the model was read.

        Raises:
            ModelError: the file is gone, or was written again.
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
        """A read-only view of the file; a copy if the offset is not aligned for the processor.

        Raises:
            ModelError: see `check`.
        """
        if 0 in self.shape:  # an empty section cannot be mapped
            return np.empty(self.shape, self.dtype)
        self.check()
        mapped: Any = np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)
        return np.require(np.asarray(mapped), requirements="A")


class MappedWeights(MutableMapping[str, Array]):
    """Weights that are arrays or sections of files; access gives an array for both.

    A section is mapped anew at each access: pages that were read count as memory of the process until the array is
    released. One map for the whole run would grow to the size of all weights.

    Args:
        base: initial weights; sections stay sections.
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
        """Check the files of the named weights, for callers that read the files by other means.

        Args:
            names: of weights; weights that are arrays are not checked.

        Raises:
            ModelError: see `FileSection.check`.
        """
        sections = [value for name in names if isinstance(value := self._values[name], FileSection)]
        for section in {section.path: section for section in sections}.values():
            section.check()
