"""Everything int8 first; then as few fallbacks as the goal allows, the most harmful units first."""

from __future__ import annotations

from collections.abc import Callable

from inc_autotune.core.space import Assignment
from inc_autotune.core.strategy.base import Proposal, SearchView
from inc_autotune.core.strategy.starts import all_quantized, any_met, first_untried, met


def auto(view: SearchView) -> Proposal | None:
    """The default strategy.

    1. Every unit quantized, with each required smoothing plan and sampling size.
    2. From the best of those, the 1, 2, 4, 8, ... most harmful units fall back (to dynamic or bf16 where that takes
       the harm away, else to fp32) until the goal is met, so never more than twice the needed number.
    3. With time left, bisection between the last failure and the success; or, where no unit had to fall back, the
       smoothing plans in reserve, one of which may be faster.
    """
    starts = all_quantized(view, required=True)
    for proposal in starts:
        if view.trial_of(proposal.assignment) is None:
            return proposal
    if not any_met(view):
        return _fall_back(view, view.best_of([start.assignment for start in starts]))
    if not view.thorough:
        return None
    full = [start.assignment for start in starts]
    if any(met(view, assignment) for assignment in full):
        return first_untried(view, all_quantized(view, required=False))
    return _fall_back(view, view.best_of(full))


def _fall_back(view: SearchView, start: Assignment) -> Proposal | None:
    """The next number of fallbacks: doubling up to a success, then (when thorough) bisection."""
    order = [harm.unit for harm in view.rank(start)]

    def proposal(count: int) -> Proposal:
        assignment = start.replace({unit: view.fallback(start, unit) for unit in order[:count]})
        return Proposal(assignment, f"{count} of {len(order)} units fall back")

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
