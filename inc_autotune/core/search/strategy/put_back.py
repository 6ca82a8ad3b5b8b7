"""Quantize again what fell back for nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.space import Assignment


def put_back(view: SearchView, build: Callable[[Sequence[str]], Assignment], fallen: Sequence[str]) -> Proposal | None:
    """The next model to try with some of `fallen` quantized again; None when every fallback that is left is needed.

    Delta debugging (Zeller and Hildebrandt, 2002): halves of the set are quantized again, then quarters, down to
    single units, the least harmful first; units without whose fallback the goal is met stay quantized.

    Args:
        build: the assignment in which these units fall back.
        fallen: units that fell back in a model that met the goal, the most harmful first.
    """
    kept = list(fallen)
    size = len(kept) // 2
    while size > 0:
        end = len(kept)
        while end > 0 and len(kept) > 1:
            start = max(0, end - size)
            rest = kept[:start] + kept[end:]
            end = start
            if not rest:
                continue
            assignment = build(rest)
            trial = view.trial_of(assignment)
            if trial is None:
                again = ", ".join(sorted(set(kept) - set(rest))) if size == 1 else f"{len(kept) - len(rest)} units"
                return Proposal(
                    assignment, f"{again} quantized again, {len(rest)} of {len(view.space.units)} units fall back"
                )
            if trial.met:
                kept = rest
        size //= 2
    return None
