"""After the search: the best model, written in another way that may be faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inc_autotune.core.search.strategy.base import Proposal
from inc_autotune.core.search.study import Trial


def untried_variant(best: Trial | None, trials: Sequence[Trial], variants: Sequence[str]) -> Proposal | None:
    """The next variant of the best model to try; None when all were, or no model meets the goal.

    Args:
        best: the best trial so far.
        trials: all of them.
        variants: names, see `SupportsVariants`.
    """
    if best is None or not best.met or best.assignment.variant is not None:
        return None
    tried = {trial.assignment.digest for trial in trials if not trial.interrupted}
    for variant in variants:
        assignment = replace(best.assignment, variant=variant)
        if assignment.digest not in tried:
            return Proposal(assignment, f"{best.label}, {variant}")
    return None
