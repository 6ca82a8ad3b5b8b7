"""What is found out before the first trial: slow units, the score of the fp32 model, smoothing plans."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inc_autotune.core.analysis.smoothing_plan import SmoothingPlan, plan_smoothing, planned_steps
from inc_autotune.core.analysis.unit_speed import slow_units
from inc_autotune.core.evaluation.verdict import Scores
from inc_autotune.core.search.candidates import Candidates
from inc_autotune.core.search.evaluator import Evaluations
from inc_autotune.core.search.options import Choices, is_asked_for
from inc_autotune.core.search.ranking import Ranking
from inc_autotune.core.space.units import TuningSpace
from inc_autotune.core.tuner.run import Run

_BASELINE = "baseline"


@dataclass(frozen=True)
class Preparation:
    """What is known before the first trial, and what makes, judges and ranks candidates from then on.

    Args:
        choices: what there is to decide.
        plans: smoothing plans to try, best first.
        baseline: the fp32 model's scores; None without an evaluation.
        candidates: builds and measures models.
        evaluations: calls the user's evaluation.
        ranking: ranks units by their harm.
    """

    choices: Choices
    plans: tuple[SmoothingPlan, ...]
    baseline: Scores | None
    candidates: Candidates
    evaluations: Evaluations
    ranking: Ranking


def prepare(run: Run, choices: Choices) -> Preparation:
    """Speed of units, baseline, smoothing plans. What one process of the run finds holds for all.

    Raises:
        EvaluationError: the evaluation raised on the fp32 model, or gave no finite number.
        QuantizationError: no smoothing plan can be built and run.
    """
    if run.arguments.objective == "performance":
        choices = choices.without(_slow_units(run, choices.space))
    space = choices.space
    evaluations = Evaluations(run.evaluate, run.phases)
    baseline: Scores | None = None
    if run.evaluate is None:
        plans = _find_plans(run, space)
    elif run.history.work.is_claimed(_BASELINE):
        # Another process evaluates the fp32 model, so this one has time for the alphas.
        plans = _find_plans(run, space)
        baseline = _find_baseline(run, evaluations)
    else:
        baseline = _find_baseline(run, evaluations)
        plans = _find_plans(run, space)
    return Preparation(
        choices,
        plans,
        baseline,
        Candidates(run.adaptor, run.model, run.quantize, space, run.phases),
        evaluations,
        Ranking(run.adaptor, run.model, space, run.phases, run.history.work),
    )


def _slow_units(run: Run, space: TuningSpace) -> dict[str, str]:
    """Operators that int8 makes no faster, by name, each with the reason; without those a rule asks for."""

    def compute() -> dict[str, str]:
        with run.phases.phase("measurement"):
            return slow_units(run.adaptor, space.units, expired=run.phases.expired)

    slow = run.history.work.once("slow units", compute, keep=lambda: not run.phases.expired())
    return {name: reason for name, reason in slow.items() if not is_asked_for(name, run.arguments)}


def _find_baseline(run: Run, evaluations: Evaluations) -> Scores:
    """The fp32 model's scores, which the study keeps."""

    def compute() -> bool:
        run.history.baseline = evaluations.fp32(run.model)
        return True

    if run.history.baseline is None:
        run.history.work.once(_BASELINE, compute)
    stored = run.history.baseline
    assert stored is not None
    return stored


def _find_plans(run: Run, space: TuningSpace) -> tuple[SmoothingPlan, ...]:
    arguments = run.arguments.smoothing

    def compute() -> list[dict[str, Any]]:
        with run.phases.phase("smoothing", planned_steps(arguments, space)) as advance:
            plans = plan_smoothing(
                run.adaptor,
                run.model,
                space,
                arguments,
                run.sampling_sizes[-1],
                expired=run.phases.expired,
                advance=advance,
            )
        return [asdict(plan) for plan in plans]

    # A search that the clock cut short is not what a later run, with more time, should find.
    plans = run.history.work.once("smoothing plans", compute, keep=lambda: not run.phases.expired())
    return tuple(SmoothingPlan(**plan) for plan in plans)
