"""Training as a rung of every strategy: after the models with everything quantized, before anything falls back."""

from __future__ import annotations

from dataclasses import replace

from inc_autotune.core.search.strategy.base import Proposal, SearchView, Strategy
from inc_autotune.core.search.strategy.starts import all_quantized, any_met, first_untried
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space import Assignment


def with_training(strategy: Strategy, view: SearchView, mark: str, *, at_once: bool) -> Proposal | None:
    """What to try next where models can be trained.

    1. The models with every unit quantized, as they are, unless training is to begin `at_once`.
    2. If none of them meets the goal, the best one of them trained; then what the strategy proposes after it, trained
       too.
    3. Where the first training made no better model, the strategy without training.

    Args:
        mark: of assignments that are trained by the user's function, see `Assignment.trained`.
    """
    plain = _only(view, None)
    starts = all_quantized(plain)
    if not at_once and (first_untried(plain, starts) is not None or any_met(plain)):
        return strategy(plain)
    start = plain.best_of([each.assignment for each in starts])
    label = next(each.label for each in starts if each.assignment.digest == start.digest)
    first = _trained(Proposal(start, label), mark)
    trial = view.trial_of(first.assignment)
    if trial is None:
        return first
    if trial.state == "running":
        return None  # what comes next starts from its weights
    if _helps(view, trial, None if at_once else plain.trial_of(start)):
        taught = _of_start(_only(view, mark), start)
        proposal = strategy(taught)
        if proposal is not None or any_met(taught):
            return None if proposal is None else _trained(proposal, mark)
    return strategy(plain)


def _helps(view: SearchView, trial: Trial, before: Trial | None) -> bool:
    """Whether a trained model has a score, and a better one than before the training."""
    if trial.score is None:
        return False
    return before is None or before.score is None or view.goal.better(trial.score, before.score)


def _trained(proposal: Proposal, mark: str) -> Proposal:
    return Proposal(replace(proposal.assignment, trained=mark), f"{proposal.label}, trained")


def _only(view: SearchView, mark: str | None) -> SearchView:
    """The view of the trials that were trained so, or not at all, in which nothing tells that they were."""
    trials = [
        replace(trial, assignment=replace(trial.assignment, trained=None))
        for trial in view.trials
        if trial.assignment.trained == mark
    ]
    return replace(view, trials=trials)


def _of_start(view: SearchView, start: Assignment) -> SearchView:
    """The view with the plan and the sampling size of one start: training costs too much to try the others."""
    plans = [
        plan
        for plan in view.plans
        if plan.required and plan.assignment(view.space, start.sampling_size).digest == start.digest
    ]
    return replace(view, plans=plans[:1], sampling_sizes=(start.sampling_size,))
