"""As `mse`, then quantize again what fell back for nothing."""

from __future__ import annotations

from inc_autotune.core.search.strategy.accumulate import accumulate, with_fallbacks
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.starts import begin, best_start, start_met
from inc_autotune.core.space import Assignment


def mse_v2(view: SearchView) -> Proposal | None:
    """Fallbacks one by one until the goal is met; then the least harmful of them are quantized again until it breaks.

    The ranking measures each unit alone, so units that the goal does not need may fall back too.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    start = best_start(view)
    accumulation = accumulate(view, start)
    if accumulation.proposal is not None:
        return accumulation.proposal
    return _quantize_again(view, start, accumulation.fallen)


def _quantize_again(view: SearchView, start: Assignment, fallen: tuple[str, ...]) -> Proposal | None:
    # Without the last unit that fell back the goal was not met: it stays.
    kept = list(fallen)
    for unit in reversed(fallen[:-1]):
        rest = [other for other in kept if other != unit]
        assignment = with_fallbacks(view, start, rest)
        trial = view.trial_of(assignment)
        if trial is None:
            return Proposal(assignment, f"{unit} quantized again, {len(rest)} units fall back")
        if not trial.met:
            return None
        kept = rest
    return None
