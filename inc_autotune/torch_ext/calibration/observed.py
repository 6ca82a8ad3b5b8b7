"""What the batches of a pass told of the model itself, in one process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.operators import ModelTrace, merged


@dataclass(frozen=True)
class Observed:
    """How the batches ran the model.

    Args:
        traces: those that told something new, by the number of their batch.
        shows_errors: whether every output had numbers in which candidates can be compared.
        steps: of the first samples, after their first batch: what speed is measured on.
        firsts: inputs of the first call of each module that was called from outside, the model first; empty where no
            other process examines the model by them.
        notes: what the user should know of the batches.
        is_kept: whether there is room for all batches, for a second pass.
    """

    traces: Sequence[tuple[int, ModelTrace]]
    shows_errors: bool
    steps: Sequence[Batch]
    firsts: Sequence[Batch]
    notes: Sequence[str]
    is_kept: bool

    @property
    def trace(self) -> ModelTrace:
        """What holds in all batches."""
        return reduce(merged, (trace for _, trace in self.traces))

    def output_notes(self, first: ModelTrace) -> list[str]:
        """A note where the model's outputs do not show how far a candidate is from fp32.

        Args:
            first: how the first batch ran the model.
        """
        if self.shows_errors:
            return []
        if not first.last:
            return [
                "the model returns nothing with numbers in which candidates could be compared with fp32: what is tried "
                "first, and what falls back first, is not ordered by harm"
            ]
        names = ", ".join(map(repr, sorted(first.last)[:3]))
        return [
            "the model returns integers or no numbers at all, so candidates are compared with fp32 at the outputs of "
            f"the last operators: {names}{', ...' if len(first.last) > 3 else ''}"
        ]


def merged_observations(parts: Sequence[Observed]) -> Observed:
    """What processes saw that ran other batches of the same data, as if one had run them all in their order."""
    traces = {number: trace for part in parts for number, trace in part.traces}
    shows_errors = all(part.shows_errors for part in parts)
    return replace(parts[0], traces=[(number, traces[number]) for number in sorted(traces)], shows_errors=shows_errors)
