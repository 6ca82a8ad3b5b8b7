"""Content hashes of arrays, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.graphs.feed import Feed

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


def content(array: Array | None) -> str:
    """A hash of dtype, shape and values, the same for equal arrays; empty for None."""
    if array is None:
        return ""
    digest = hashlib.sha256()
    _add(digest, array)
    return digest.hexdigest()


def add_arrays(digest: Digest, arrays: Mapping[str, Array]) -> None:
    """Take names, dtypes, shapes and values into a digest."""
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} ".encode())
        _add(digest, value)


def digested(feeds: Iterable[Feed], digest: Digest) -> Iterator[Feed]:
    """The same feeds; their values are taken into a digest as they pass by."""
    for feed in feeds:
        add_arrays(digest, feed.inputs)
        yield feed


def _add(digest: Digest, array: Array) -> None:
    digest.update(f"{array.dtype} {array.shape}".encode())
    if array.dtype.kind in "OUS":  # text, of which an array may hold no more than addresses
        digest.update(repr(array.tolist()).encode())
        return
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
