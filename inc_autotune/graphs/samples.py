"""What of an item is a sample, proved by the fp32 model, and how few samples are taken from large items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import ceil

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import NOT_A_BATCH, is_batch
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.outputs import comparable_arrays

SPREAD_ITEMS = 8
"""The samples asked for come from so many items, where the first one alone has enough: frames of one recording, or
pictures of one class, say little about the others. To read more would cost time in the loader."""

SAME_ROW = 1e-3
"""Largest difference of two rows that are the same, relative to the largest value of the output."""


class SampleAxis:
    """Finds out, once for each set of inputs that seem to count samples, whether they do.

    Args:
        outputs: what the fp32 model returns for a feed; None where it does not take the feed.
    """

    def __init__(self, outputs: Callable[[Feed], Sequence[Array] | None]) -> None:
        self._outputs = outputs
        self._found: dict[frozenset[str], Callable[[Feed], Feed]] = {}
        self._spread_over = 1

    @property
    def notes(self) -> list[str]:
        """A note if the rows of some items are no samples, and one if large items were read in part."""
        notes = [NOT_A_BATCH] if Feed.whole in self._found.values() else []
        if self._spread_over > 1:
            notes.append(
                "the first item alone has all the samples that sampling_sizes asks for: they were taken from the first "
                f"{self._spread_over} items, about equally many from each. Ask for more if items differ much."
            )
        return notes

    def checked(self, feed: Feed) -> Feed:
        """The feed as it may be used.

        As it is, if each of its samples alone gives its rows of the output; uncut, if the model fixes how many samples
        there are, yet computes each by itself; else whole, as one sample: a sequence, or a single vector.
        """
        if feed.size < 2:
            return feed
        if feed.batched not in self._found:
            self._found[feed.batched] = self._prove(feed)
        return self._found[feed.batched](feed)

    def spread(self, first: Feed, others: Iterator[Feed], limit: int) -> list[Feed]:
        """`spread`, with a note."""
        parts = spread(first, others, limit)
        self._spread_over = len(parts)
        return parts

    def _prove(self, feed: Feed) -> Callable[[Feed], Feed]:
        if feed.divisible and is_batch(self._real_outputs, feed):
            return lambda each: each
        return Feed.uncut if self._is_fixed_batch(feed) else Feed.whole

    def _is_fixed_batch(self, feed: Feed) -> bool:
        """Whether a row of the output does not change when all other samples become equal to its own."""
        every = self._real_outputs(feed)
        if every is None:
            return False
        for index in (0, feed.size - 1):
            alike = self._real_outputs(feed.everywhere(index))
            if alike is None or not _same_row(every, alike, index, feed.size):
                return False
        return True

    def _real_outputs(self, feed: Feed) -> list[Array] | None:
        outputs = self._outputs(feed)
        return None if outputs is None else comparable_arrays(outputs)


def _same_row(every: Sequence[Array], alike: Sequence[Array], index: int, size: int) -> bool:
    shown = False
    for one, other in zip(every, alike, strict=True):
        if one.ndim == 0 or one.shape != other.shape or one.shape[0] % size:
            continue
        rows = slice(index * one.shape[0] // size, (index + 1) * one.shape[0] // size)
        largest = np.nanmax(np.abs(np.where(np.isfinite(one), one, 0)), initial=0)
        if not np.allclose(one[rows], other[rows], rtol=0, atol=SAME_ROW * largest, equal_nan=True):
            return False
        shown = True
    return shown


def spread(first: Feed, others: Iterator[Feed], limit: int) -> list[Feed]:
    """`limit` samples from a first item that has as many, and from items behind it, about equally many from each.

    Args:
        first: of `limit` samples or more, which can be cut.
        others: the items behind it, of which no more are read than needed.
        limit: samples in all.
    """
    # A loader may fill the same memory again.
    first = first.take(limit).copy()
    behind = [each.take(limit).copy() for each in islice(others, min(SPREAD_ITEMS, limit) - 1)]
    share = ceil(limit / (len(behind) + 1))
    parts: list[Feed] = []
    left = limit
    for each in behind:
        part = each.take(min(share, left - 1))
        if part.size < left:
            parts.append(part)
            left -= part.size
        if left == 1:
            break
    return [first.take(left), *parts]
