"""Calibration samples kept apart, to compare candidates at the model's output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from inc_autotune.core.feed import Array, Feed
from inc_autotune.core.padding import real_outputs, real_positions

HELD_OUT_SAMPLES = 16
"""Samples whose outputs are compared with a candidate's."""

HELD_OUT_BYTES = 256 << 20
"""Their outputs take no more memory than this, whatever the model returns."""


@dataclass
class HeldOut:
    """Samples kept apart to compare candidates at the model's output.

    Every second batch is held out until there are enough samples: its rows do not choose alphas. The first batch
    stands in until there is a second one.

    Args:
        feeds: their inputs.
        outputs: what the fp32 model returned for them at positions that are not padding.
    """

    feeds: list[Feed] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(feed.size for feed in self.feeds)

    def wants(self, index: int) -> bool:
        """Whether the batch of this number is to be held out."""
        return index % 2 == 1 and (index == 1 or self.samples < HELD_OUT_SAMPLES)

    def add(self, index: int, feed: Feed, outputs: Sequence[Array]) -> None:
        """Keep the first samples of a batch and their outputs, if there is room."""
        if index == 1:
            self.feeds, self.outputs = [], []
        kept = feed.take(HELD_OUT_SAMPLES - self.samples).copy()
        if kept.size < feed.size:
            outputs = [each[: kept.size] if each.shape[:1] == (feed.size,) else each for each in outputs]
        fitting = real_outputs(outputs, real_positions(kept))
        if not self.feeds or sum(each.nbytes for each in (*self.outputs, *fitting)) <= HELD_OUT_BYTES:
            self.feeds.append(kept)
            self.outputs += [each.copy() for each in fitting]


def cut(feeds: Iterable[Feed], sizes: Sequence[int]) -> Iterator[Feed]:
    """The same samples, cut so that a batch ends at every sampling size, where batches can be cut."""
    seen = 0
    for feed in feeds:
        inside = sorted(size - seen for size in sizes if seen < size < seen + feed.size) if feed.batched else []
        for start, stop in pairwise([0, *inside, feed.size]):
            yield feed.slice(start, stop)
        seen += feed.size
