"""Content hashes of arrays, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.graphs.feed import Feed

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


def add_arrays(digest: Digest, arrays: Mapping[str, Array]) -> None:
    """Take names, dtypes, shapes and values into a digest."""
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        if value.dtype.kind in "OUS":  # text, of which an array may hold no more than addresses
            digest.update(repr(value.tolist()).encode())
            continue
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def digested(feeds: Iterable[Feed], digest: Digest) -> Iterator[Feed]:
    """The same feeds; their values are taken into a digest as they pass by."""
    for feed in feeds:
        add_arrays(digest, feed.inputs)
        yield feed
