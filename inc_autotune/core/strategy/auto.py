"""Everything int8 first; then as few fallbacks as the goal allows, the most harmful units first."""

from __future__ import annotations

from collections.abc import Callable

from inc_autotune.core.space import Assignment
from inc_autotune.core.strategy.base import Proposal, SearchView


def auto(view: SearchView) -> Proposal | None:
    """The default strategy.

    1. Every unit quantized, with each required smoothing plan and sampling size.
    2. From the best of those, the 1, 2, 4, 8, ... most harmful units in fp32 until the goal is met, so never
       more than twice the needed number.
    3. With time left, bisection between the last failure and the success; or, where no unit had to fall back, the
       smoothing plans in reserve, one of which may be faster.
    """
    starts = _starts(view, required=True)
    for proposal in starts:
        if view.trial_of(proposal.assignment) is None:
            return proposal
    if not _any_met(view):
        return _fall_back(view, view.best_of([start.assignment for start in starts]))
    if not view.thorough:
        return None
    full = [start.assignment for start in starts]
    if any(_met(view, assignment) for assignment in full):
        return _first_untried(view, _starts(view, required=False))
    return _fall_back(view, view.best_of(full))


def _starts(view: SearchView, *, required: bool) -> list[Proposal]:
    several = len(view.sampling_sizes) > 1
    return [
        Proposal(
            view.space.default(size, plan.alphas),
            f"all quantized, smoothing {plan.name}" + (f", {size} samples" if several else ""),
        )
        for size in view.sampling_sizes
        for plan in view.plans
        if plan.required == required
    ]


def _fall_back(view: SearchView, start: Assignment) -> Proposal | None:
    """The next number of fallbacks: doubling up to a success, then (when thorough) bisection."""
    order = [harm.unit for harm in view.rank(start)]

    def proposal(count: int) -> Proposal:
        return Proposal(view.space.without(start, order[:count]), f"{count} of {len(order)} units in fp32")

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


def _first_untried(view: SearchView, proposals: list[Proposal]) -> Proposal | None:
    return next((each for each in proposals if view.trial_of(each.assignment) is None), None)


def _met(view: SearchView, assignment: Assignment) -> bool:
    trial = view.trial_of(assignment)
    return trial is not None and trial.met


def _any_met(view: SearchView) -> bool:
    return any(trial.met for trial in view.trials)
