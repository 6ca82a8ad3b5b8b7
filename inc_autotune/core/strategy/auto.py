"""Everything int8 first; then as few fallbacks as the goal allows, the most harmful units first."""

from __future__ import annotations

from collections.abc import Callable

from inc_autotune.core.space import Assignment
from inc_autotune.core.strategy.accumulate import with_fallbacks
from inc_autotune.core.strategy.base import Proposal, SearchView
from inc_autotune.core.strategy.starts import begin, best_start, start_met


def auto(view: SearchView) -> Proposal | None:
    """The default strategy.

    1. Every unit quantized, with each required smoothing plan and sampling size.
    2. From the best of those, the 1, 2, 4, 8, ... most harmful units fall back (to dynamic or bf16 where that takes
       the harm away, else to fp32) until the goal is met, so never more than twice the needed number.
    3. With time left, bisection between the last failure and the success; or, where no unit had to fall back, the
       smoothing plans in reserve, one of which may be faster.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    return _fall_back(view, best_start(view))


def _fall_back(view: SearchView, start: Assignment) -> Proposal | None:
    """The next number of fallbacks: doubling up to a success, then (when thorough) bisection."""
    order = [harm.unit for harm in view.rank(start)]

    def proposal(count: int) -> Proposal:
        return Proposal(with_fallbacks(view, start, order[:count]), f"{count} of {len(order)} units fall back")

    failed = 0
    for count in _doubling(len(order)):
        tried = proposal(count)
        trial = view.trial_of(tried.assignment)
        if trial is None:
            return tried
        if trial.met:
            return _bisect(view, proposal, failed, count) if view.thorough else None
        failed = count
    return None


def _doubling(units: int) -> list[int]:
    """1, 2, 4, ... and at last all units but one: the fp32 model itself is no candidate."""
    counts = [1 << power for power in range(units.bit_length()) if 1 << power < units]
    return sorted({*counts, units - 1} - {0})


def _bisect(view: SearchView, proposal: Callable[[int], Proposal], failed: int, met: int) -> Proposal | None:
    """The next count between one that failed and one that met; None when they are neighbours."""
    while met - failed > 1:
        middle = (failed + met) // 2
        tried = proposal(middle)
        trial = view.trial_of(tried.assignment)
        if trial is None:
            return tried
        failed, met = (failed, middle) if trial.met else (middle, met)
    return None
