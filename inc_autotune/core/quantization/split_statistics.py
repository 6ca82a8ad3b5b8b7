"""Calibration statistics, apart by what their samples are for, at every sampling size.

A range that has seen a sample cannot clip it. So candidates are compared on held-out samples with the ranges of the
folds, and alphas are scored on the rows of one fold with the ranges of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inc_autotune.core.quantization.statistics import ActivationStatistics

SAMPLED_ROWS = 64
"""Rows of each fold that score an alpha, so 128 of an activation. Since ranges are exact, few are enough: on MiniLM-L6
layer-wise alphas from 64 rows leave 1 % more loss than those from 1,600, from 128 rows 0.5 %, from 32 rows 4 %."""

Statistics = Mapping[str, ActivationStatistics]
"""By name of the activation."""


@dataclass(frozen=True)
class Snapshot:
    """Statistics of the samples so far.

    Args:
        every: statistics of all samples, for the ranges of the model that the user gets.
        fitted: statistics of the samples that are not held out. An activation that only held-out samples reached (in an
            expert of a mixture, say) has the statistics of these.
        folds: statistics of two halves of the samples that are not held out.
        held_out: statistics of the others, without rows.
    """

    every: Statistics
    fitted: Statistics
    folds: tuple[Statistics, Statistics]
    held_out: Statistics

    @property
    def parts(self) -> tuple[Statistics, Statistics, Statistics]:
        """What `of` makes the snapshot of."""
        return (*self.folds, self.held_out)

    @classmethod
    def of(cls, first: Statistics, second: Statistics, held_out: Statistics) -> Snapshot:
        """Of the statistics of both folds and of what is held out, which belong to the snapshot from then on."""
        fitted = _merged(first, second)
        every = _merged(fitted, held_out)
        known = {name: each if each.count else every[name] for name, each in fitted.items()}
        return cls(every, known, (first, second), held_out)

    def statistics(self, *, without_held_out: bool) -> Statistics:
        """`fitted`, to compare candidates on held-out samples, or `every`, to use a candidate."""
        return self.fitted if without_held_out else self.every

    def crossed(self, name: str) -> tuple[ActivationStatistics, ...]:
        """Ranges of an activation from one fold with sampled rows from the other, both ways.

        Empty if one of the folds has no rows of the activation.
        """
        first, second = (fold[name] for fold in self.folds)
        if first.sampled_rows is None or second.sampled_rows is None:
            return ()
        return first.with_rows_of(second), second.with_rows_of(first)


class SplitStatistics:
    """Collects statistics batch by batch.

    Args:
        empty: makes statistics of every activation that have seen nothing, for a seed.
        seeds: of the sampled rows of the first fold, which gets the first batch, and of the second; two different ones,
            since the samples will be merged.
    """

    def __init__(self, empty: Callable[[int], Statistics], seeds: tuple[int, int]) -> None:
        self._seeds = (*seeds, seeds[0])
        self._parts: list[Statistics] = [*map(empty, self._seeds)]
        self._current = 0
        self._fitted_batches = 0

    @property
    def current(self) -> Statistics:
        """The statistics that the last batch updates."""
        return self._parts[self._current]

    def watch(self, empty: Callable[[int], Statistics]) -> None:
        """Take in statistics of more activations, which have seen nothing; known ones stay as they are."""
        self._parts = [{**empty(seed), **part} for seed, part in zip(self._seeds, self._parts, strict=True)]

    def batch(self, *, held_out: bool) -> Statistics:
        """The statistics that the next batch is to update; without rows, if the batch is held out."""
        self._current = _HELD_OUT if held_out else self._fitted_batches % 2
        self._fitted_batches += not held_out
        return self.current

    def compact(self) -> None:
        """Move what the last batch has updated to memory of its own.

        Arrays that are made during a forward pass lie between activations, and as long as the arrays live the system
        cannot have the activations' memory back: 150 MiB on a small GPT in PyTorch.
        """
        self._parts[self._current] = _copied(self._parts[self._current])

    def snapshot(self) -> Snapshot:
        """What all batches so far have shown."""
        return Snapshot.of(*map(_copied, self._parts))


class Snapshots:
    """What calibration had shown when it reached each sampling size.

    Args:
        sizes: the sampling sizes asked for.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.samples = 0
        self._sizes = sizes
        self._by_size: dict[int, Snapshot] = {}
        self.collected: Mapping[int, Snapshot] = self._by_size
        """Snapshots by the number of samples, as they were taken."""

    @classmethod
    def merged(cls, parts: Sequence[Snapshots]) -> Snapshots:
        """Of parts of the same data, each of which has seen other batches; their sampled rows have different seeds."""
        first = parts[0]
        collected = {
            size: Snapshot.of(
                *(_all_merged(each) for each in zip(*(part.collected[size].parts for part in parts), strict=True))
            )
            for size in first.collected
        }
        return cls.of(first.samples, collected)

    @classmethod
    def of(cls, samples: int, collected: Mapping[int, Snapshot]) -> Snapshots:
        """Of snapshots as `collected` has them, the last of which is of all samples."""
        made = cls(sorted(collected))
        made.samples, made.collected = samples, collected
        made._complete()
        return made

    def advance(self, samples: int, statistics: SplitStatistics) -> None:
        """Keep a snapshot if a batch of so many samples has reached a sampling size.

        A sampling size inside a batch that cannot be cut ends with the batch.
        """
        reached = [size for size in self._sizes if self.samples < size <= self.samples + samples]
        self.samples += samples
        if reached:
            self._by_size |= dict.fromkeys((*reached, self.samples), statistics.snapshot())

    def finish(self, statistics: SplitStatistics) -> None:
        """Keep a snapshot of all samples, to be called after the last batch.

        An activation that the samples of a smaller size never reached has there the statistics of all samples.
        """
        if self.samples not in self._by_size:
            self._by_size[self.samples] = statistics.snapshot()
        self.collected = self._by_size
        self._complete()

    def _complete(self) -> None:
        last = self.collected[self.samples]
        self._by_size = {size: _completed(each, last) for size, each in self.collected.items()}

    def at(self, size: int) -> Snapshot:
        """The snapshot of `size` samples, else the smallest of more, else that of all samples.

        So a size that was not asked for has a snapshot too, as has one that the data did not reach.
        """
        return self._by_size[min((each for each in self._by_size if each >= size), default=max(self._by_size))]


_HELD_OUT = 2
"""Where the held-out samples stand among the parts, behind the two folds."""


def _completed(snapshot: Snapshot, last: Snapshot) -> Snapshot:
    known = {name for name, each in snapshot.every.items() if each.count}

    def completed(statistics: Statistics, complete: Statistics) -> Statistics:
        return {name: statistics[name] if name in known else complete[name] for name in complete}

    one, other = (completed(*folds) for folds in zip(snapshot.folds, last.folds, strict=True))
    return Snapshot(
        completed(snapshot.every, last.every),
        completed(snapshot.fitted, last.fitted),
        (one, other),
        completed(snapshot.held_out, last.held_out),
    )


def _copied(statistics: Statistics) -> dict[str, ActivationStatistics]:
    return {name: each.copy() for name, each in statistics.items()}


def _merged(one: Statistics, other: Statistics) -> dict[str, ActivationStatistics]:
    merged = _copied(one)
    for name, each in other.items():
        merged[name].merge(each)
    return merged


def _all_merged(parts: Sequence[Statistics]) -> dict[str, ActivationStatistics]:
    merged = _copied(parts[0])
    for part in parts[1:]:
        merged = _merged(merged, part)
    return merged
