"""What every strategy begins with: the models with every unit quantized."""

from __future__ import annotations

from collections.abc import Iterable

from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.space import Assignment


def all_quantized(view: SearchView, *, required: bool = True) -> list[Proposal]:
    """Every unit at its default, with each required (or each reserve) smoothing plan and each sampling size."""
    several = len(view.sampling_sizes) > 1
    return [
        Proposal(
            plan.assignment(view.space, size),
            f"all quantized, smoothing {plan.name}" + (f", {size} samples" if several else ""),
        )
        for size in view.sampling_sizes
        for plan in view.plans
        if plan.required == required
    ]


def first_untried(view: SearchView, proposals: Iterable[Proposal]) -> Proposal | None:
    """The first proposal without a trial."""
    return next((proposal for proposal in proposals if view.trial_of(proposal.assignment) is None), None)


def met(view: SearchView, assignment: Assignment) -> bool:
    """Whether this assignment was tried and met the goal."""
    trial = view.trial_of(assignment)
    return trial is not None and trial.met


def any_met(view: SearchView) -> bool:
    """Whether any trial met the goal."""
    return any(trial.met for trial in view.trials)


def begin(view: SearchView) -> Proposal | None:
    """The next all-quantized model to try; if one met the goal and time is left, with the plans in reserve too."""
    required = all_quantized(view)
    untried = first_untried(view, required)
    if untried is None and view.thorough and any(met(view, start.assignment) for start in required):
        return first_untried(view, all_quantized(view, required=False))
    return untried


def best_start(view: SearchView) -> Assignment:
    """The all-quantized model with the best score, which fallbacks start from."""
    return view.best_of([start.assignment for start in all_quantized(view)])


def start_met(view: SearchView) -> bool:
    """Whether the goal was met with every unit quantized, so that nothing has to fall back."""
    starts = all_quantized(view) + all_quantized(view, required=False)
    return any(met(view, start.assignment) for start in starts)
