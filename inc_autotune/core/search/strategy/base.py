"""The contract between the tuner and a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inc_autotune.core.analysis import SmoothingPlan, UnitHarm
from inc_autotune.core.evaluation import Goal
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space import Assignment, TuningSpace


@dataclass(frozen=True)
class Proposal:
    """The next assignment to evaluate, and what it tries, for people."""

    assignment: Assignment
    label: str


@dataclass(frozen=True)
class SearchView:
    """Everything a strategy may look at.

    Args:
        space: the units and their options.
        trials: finished trials, in order, and trials that other processes evaluate at this moment. A running trial
            counts as one that missed the goal, so that no process waits for another: a strategy proposes what would
            come after its failure.
        goal: what a score must reach.
        plans: smoothing plans, best first.
        sampling_sizes: calibration sizes with statistics, in the user's order.
        rank: units of an assignment, the most harmful first; measured at the first call, remembered after.
        fallback: what a harmful unit of an assignment becomes instead: dynamic, bf16 or fp32; measured once for each
            unit.
        curvature: as `rank`, from gradients alone; None if the framework gives no gradients.
        thorough: whether to go on after a success, looking for a faster model (`tuning_time` > 0).
        seed: of strategies that draw at random.
        workers: processes that share the trials, this one included.
    """

    space: TuningSpace
    trials: Sequence[Trial]
    goal: Goal
    plans: Sequence[SmoothingPlan]
    sampling_sizes: Sequence[int]
    rank: Callable[[Assignment], Sequence[UnitHarm]]
    fallback: Callable[[Assignment, str], OpConfig] = lambda assignment, unit: FP32
    curvature: Callable[[Assignment], Sequence[UnitHarm]] | None = None
    thorough: bool = False
    seed: int = 0
    workers: int = 1

    def trial_of(self, assignment: Assignment) -> Trial | None:
        """The trial of exactly this assignment; None if there is none, or its evaluation was interrupted."""
        digest = assignment.digest
        same = (trial for trial in self.trials if trial.assignment.digest == digest and not trial.interrupted)
        return next(same, None)

    def best_of(self, assignments: Sequence[Assignment]) -> Assignment:
        """The assignment with the best score; the first one if no trial of them has a score."""
        best, best_score = assignments[0], None
        for assignment in assignments:
            trial = self.trial_of(assignment)
            if trial is None or trial.score is None:
                continue
            if best_score is None or self.goal.better(trial.score, best_score):
                best, best_score = assignment, trial.score
        return best


Strategy = Callable[[SearchView], Proposal | None]
"""The next proposal, or None when nothing better is left to try. Keeps no state of its own."""
