"""Fallbacks one by one, in the order of the output error each unit causes."""

from __future__ import annotations

from inc_autotune.core.search.strategy.accumulate import accumulate
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.starts import begin, best_start, start_met


def mse(view: SearchView) -> Proposal | None:
    """Every unit quantized; then the most harmful unit falls back, then the next one too, until the goal is met.

    As many evaluations as fallbacks are needed, and the fewest fallbacks in this order. Where many are needed,
    `auto` is cheaper.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    return accumulate(view, best_start(view)).proposal
