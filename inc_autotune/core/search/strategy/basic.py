"""Whole families of operators in fp32 first, then single units."""

from __future__ import annotations

from inc_autotune.core.search.strategy.accumulate import accumulate
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.families import families
from inc_autotune.core.search.strategy.starts import begin, best_start, first_untried, start_met


def basic(view: SearchView) -> Proposal | None:
    """Every unit quantized; each family of operators in fp32, the smallest family first; then fallbacks one by one.

    A model with one family of operators goes to single units at once. With time left after a family's success, single
    units are tried for a success with fewer fallbacks.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    start = best_start(view)
    groups = families(view.space, start)
    in_fp32 = [
        Proposal(view.space.without(start, names), f"{family} in fp32")
        for family, names in sorted(groups.items(), key=lambda item: len(item[1]))
        if len(groups) > 1
    ]
    successes = [len(trial.assignment.fallback_units) for trial in view.trials if trial.met]
    if not successes or view.thorough:
        proposal = first_untried(view, in_fp32)
        if proposal is None:
            proposal = accumulate(view, start, fewer_than=min(successes, default=None)).proposal
    return proposal
