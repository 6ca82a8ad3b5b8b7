"""Calibration statistics, split into held-out samples and two folds of the others.

A range that has seen a sample cannot clip it. So candidates are compared on held-out samples with the ranges of the
folds, and alphas are scored on the rows of one fold with the ranges of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inc_autotune.core.quantization.statistics import ActivationStatistics

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
    """

    every: Statistics
    fitted: Statistics
    folds: tuple[Statistics, Statistics]

    def statistics(self, *, without_held_out: bool) -> Statistics:
        """`fitted`, to compare candidates on held-out samples, or `every`, to use a candidate."""
        return self.fitted if without_held_out else self.every

    def crossed(self, name: str) -> tuple[ActivationStatistics, ...]:
        """The ranges of one fold with the rows of the other, both ways; empty if a fold has no rows of `name`."""
        first, second = (fold[name] for fold in self.folds)
        if first.sampled_rows is None or second.sampled_rows is None:
            return ()
        return first.with_rows_of(second), second.with_rows_of(first)


class SplitStatistics:
    """Collects statistics batch by batch.

    Args:
        empty: makes empty statistics of every activation, given a seed of the sampled rows.
        seed: seed of the first fold; the second takes the next one, since samples that are merged need different seeds.
    """

    def __init__(self, empty: Callable[[int], Mapping[str, ActivationStatistics]], seed: int) -> None:
        self._folds = (empty(seed), empty(seed + 1))
        self._held_out = empty(seed)
        self._fitted_batches = 0

    def batch(self, *, held_out: bool) -> Mapping[str, ActivationStatistics]:
        """The statistics to update with the next batch; with `keep_rows=False` if the batch is held out."""
        if held_out:
            return self._held_out
        self._fitted_batches += 1
        return self._folds[self._fitted_batches % 2]

    def snapshot(self) -> Snapshot:
        """Statistics of all batches so far."""
        first, second = ({name: statistics.copy() for name, statistics in fold.items()} for fold in self._folds)
        fitted = _merged(first, second)
        every = _merged(fitted, self._held_out)
        known = {name: statistics if statistics.count else every[name] for name, statistics in fitted.items()}
        return Snapshot(every, known, (first, second))


def _merged(one: Statistics, other: Statistics) -> dict[str, ActivationStatistics]:
    merged = {name: statistics.copy() for name, statistics in one.items()}
    for name, statistics in other.items():
        merged[name].merge(statistics)
    return merged
