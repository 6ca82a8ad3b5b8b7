"""Calibration statistics, apart by what their samples are for.

A range that has seen a sample cannot clip it. So candidates are compared on held-out samples with ranges that have not
seen these, and alphas are scored on the rows of one half of the other samples with the ranges of the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inc_autotune.core.quantization.statistics import ActivationStatistics

Statistics = Mapping[str, ActivationStatistics]
"""By name of the activation."""


@dataclass(frozen=True)
class Snapshot:
    """What some samples have shown.

    Args:
        every: all of them; the ranges of the model that the user gets.
        fitted: those that are not held out. What only held-out samples reached (an expert of a mixture, say) is known
            by them alone.
        folds: two halves of the fitted ones.
    """

    every: Statistics
    fitted: Statistics
    folds: tuple[Statistics, Statistics]

    def statistics(self, *, without_held_out: bool) -> Statistics:
        """For comparing candidates, or for using one."""
        return self.fitted if without_held_out else self.every

    def crossed(self, name: str) -> tuple[ActivationStatistics, ...]:
        """Of one activation, the ranges of each fold with the rows of the other; none where both have not seen it."""
        first, second = (fold[name] for fold in self.folds)
        if first.sampled_rows is None or second.sampled_rows is None:
            return ()
        return first.with_rows_of(second), second.with_rows_of(first)


class SplitStatistics:
    """Collects statistics batch by batch.

    Args:
        empty: makes statistics of every activation that have seen nothing, for a seed; samples that will be merged
            need different ones.
        seed: of the sampled rows.
    """

    def __init__(self, empty: Callable[[int], Mapping[str, ActivationStatistics]], seed: int) -> None:
        self._folds = (empty(seed), empty(seed + 1))
        self._held_out = empty(seed)
        self._fitted_batches = 0

    def batch(self, *, held_out: bool) -> Mapping[str, ActivationStatistics]:
        """The statistics that the next batch is to update; without rows, where it is held out."""
        if held_out:
            return self._held_out
        self._fitted_batches += 1
        return self._folds[self._fitted_batches % 2]

    def snapshot(self) -> Snapshot:
        """What all batches so far have shown."""
        first, second = ({name: each.copy() for name, each in fold.items()} for fold in self._folds)
        fitted = _merged(first, second)
        every = _merged(fitted, self._held_out)
        known = {name: each if each.count else every[name] for name, each in fitted.items()}
        return Snapshot(every, known, (first, second))


def _merged(one: Statistics, other: Statistics) -> dict[str, ActivationStatistics]:
    merged = {name: each.copy() for name, each in one.items()}
    for name, each in other.items():
        merged[name].merge(each)
    return merged
