"""What is found out before the first trial: slow units, the score of the fp32 model, smoothing plans."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import (
    COMPARED_AGAIN,
    OFF,
    CorrectionPlan,
    SmoothingPlan,
    SupportsTiming,
    candidate_errors,
    is_meant_to_be_fast,
    losing_chains,
    measured_speeds,
    plan_corrections,
    plan_forms,
    plan_rounding,
    plan_smoothing,
    planned_corrections,
    planned_forms,
    planned_steps,
    possible_corrections,
    searched_alphas,
    searched_forms,
    slow_units,
    slowing_units,
)
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.evaluation import Scores
from inc_autotune.core.search import Candidates, Choices, Evaluations, Ranking, is_asked_for
from inc_autotune.core.space import Assignment, TuningSpace
from inc_autotune.core.tuner.run import Run
from inc_autotune.core.vocabulary import CORRECTIONS, Correction, FormName, listing

logger = logging.getLogger(__name__)

_BASELINE = "baseline"

_FAILING = "operators that fail"


@dataclass(frozen=True)
class Preparation:
    """What is known before the first trial, and what makes, judges and ranks candidates from then on.

    Args:
        choices: what there is to decide.
        plans: smoothing plans to try, best first.
        corrections: plans of corrections that were compared, the one that is used first; empty if there were none.
        baseline: the fp32 model's scores; None without an evaluation.
        candidates: builds and measures models.
        evaluations: calls the user's evaluation.
        ranking: ranks units by their harm.
    """

    choices: Choices
    plans: tuple[SmoothingPlan, ...]
    corrections: tuple[CorrectionPlan, ...]
    baseline: Scores | None
    candidates: Candidates
    evaluations: Evaluations
    ranking: Ranking

    @property
    def notes(self) -> list[str]:
        """For the user, about what was planned."""
        notes = [*(plan.note for plan in self.plans), *(plan.note for plan in self.corrections)]
        if self.baseline is not None and self.baseline.is_cut and self.baseline.samples is not None:
            notes.append(
                "evaluation: the fp32 model's was not over within tuning_time, so that all verdicts are about its "
                f"first {len(self.baseline.samples)} samples"
            )
        return [note for note in notes if note]

    def space_of(self, assignment: Assignment) -> TuningSpace:
        """The space an assignment was made in: it has more units if one of them was found to fail later."""
        return TuningSpace(tuple(unit for unit in self.candidates.space.units if unit.name in assignment.by_unit))

    def without_failing(self, run: Run, assignment: Assignment, error: str) -> Preparation:
        """The same, where the operators that make the model of `assignment` fail stay in fp32."""
        reasons = _failing(run, self.candidates, assignment, error)
        if not reasons:
            return self
        choices = self.choices.without(reasons)
        ranking = Ranking(run.adaptor, run.model, choices.space, run.phases, run.history.work)
        ranking.ranks.update(self.ranking.ranks)
        return replace(self, choices=choices, ranking=ranking)


def prepare(run: Run, choices: Choices) -> Preparation:
    """Speed of units, baseline, operators that fail, smoothing plans. What one process finds holds for all of the run.

    Raises:
        EvaluationError: the evaluation raised on the fp32 model, or gave no finite number.
        QuantizationError: no smoothing plan can be built and run.
    """
    candidates = Candidates(run.adaptor, run.model, run.quantize, choices.space, run.phases, run.trainings)
    speeds: Mapping[str, UnitSpeed] = {}
    if run.arguments.objective == "performance":
        speeds, choices = _without_slow(run, choices, candidates)
    evaluations = Evaluations(run.evaluate, run.phases)
    baseline: Scores | None = None
    if run.evaluate is None:
        choices, plans = _working_plans(run, choices, candidates)
    elif run.history.work.is_claimed(_BASELINE):
        # Another process evaluates the fp32 model, so this one has time for the alphas.
        choices, plans = _working_plans(run, choices, candidates)
        baseline = _find_baseline(run, evaluations)
    else:
        baseline = _find_baseline(run, evaluations)
        choices, plans = _working_plans(run, choices, candidates)
    corrections = _find_corrections(run, choices, plans[0])
    if corrections and corrections[0].corrections:
        choices = choices.corrected(run.adaptor, run.model, corrections[0].corrections)
        candidates = Candidates(run.adaptor, run.model, run.quantize, choices.space, run.phases, run.trainings)
    slowing = _slowing_units(run, candidates, choices.space, plans, speeds)
    if slowing:
        choices = choices.without(slowing)
        candidates = Candidates(run.adaptor, run.model, run.quantize, choices.space, run.phases, run.trainings)
    return Preparation(
        choices,
        plans,
        corrections,
        baseline,
        candidates,
        evaluations,
        Ranking(run.adaptor, run.model, choices.space, run.phases, run.history.work),
    )


def _without_slow(run: Run, choices: Choices, candidates: Candidates) -> tuple[Mapping[str, UnitSpeed], Choices]:
    """Speeds by unit name, and the choices without slow operators and without those that cannot be built to be timed.

    Slow are operators that int8 makes no faster.
    """
    try:
        with candidate_errors():
            speeds, slow = _slow_units(run, choices.space)
    except QuantizationError:
        unsmoothed = choices.space.default(run.sampling_sizes[-1])
        error = candidates.failure(unsmoothed)
        if error is None or not _failing(run, candidates, unsmoothed, error):
            raise
        choices = choices.without(run.history.work.get(_FAILING))
        speeds, slow = _slow_units(run, choices.space)
    return speeds, choices.without(slow)


def _working_plans(run: Run, choices: Choices, candidates: Candidates) -> tuple[Choices, tuple[SmoothingPlan, ...]]:
    """Smoothing plans, and the choices without the operators that make the model of the best plan fail.

    Raises:
        QuantizationError: it fails whichever operators stay in fp32, and no evaluation could choose another.
    """

    def known_choices() -> Choices:
        return choices.without(run.history.work.get(_FAILING) or {})

    def default(choices: Choices, plan: SmoothingPlan) -> Assignment:
        return plan.assignment(choices.space, run.sampling_sizes[-1])

    try:
        plans = _find_plans(run, known_choices().space)
    except QuantizationError:
        unsmoothed = default(known_choices(), OFF)
        error = candidates.failure(unsmoothed)
        if error is None or not _failing(run, candidates, unsmoothed, error):
            raise
        plans = _find_plans(run, known_choices().space)
    choices = known_choices()
    if plans[0].output_error is None or plans[0].output_error == math.inf:
        # It has not run yet, or has failed.
        error = candidates.failure(default(choices, plans[0]))
        if error is not None:
            reasons = _failing(run, candidates, default(choices, plans[0]), error)
            if not reasons and run.evaluate is None:
                raise QuantizationError(f"the quantized model cannot be built or run: {error}")
            choices = choices.without(reasons)
    return choices, plans


def _failing(run: Run, candidates: Candidates, assignment: Assignment, error: str) -> Mapping[str, str]:
    """Operators that make a model fail, with reasons, which the study keeps."""
    reasons = candidates.failing_operators(assignment, error)
    if reasons:
        run.history.work.put(_FAILING, {**(run.history.work.get(_FAILING) or {}), **reasons})
    return reasons


def _slow_units(run: Run, space: TuningSpace) -> tuple[Mapping[str, UnitSpeed], dict[str, str]]:
    """Speeds by unit name, and the operators that int8 makes no faster, without those a rule asks for, with reasons."""

    def compute() -> dict[str, Any]:
        with run.phases.phase("measurement"):
            speeds = measured_speeds(run.adaptor, space.units, expired=run.phases.expired)
        return {name: asdict(speed) for name, speed in speeds.items()}

    found = run.history.work.once("unit speeds", compute, keep=lambda: not run.phases.expired())
    speeds = {name: UnitSpeed(**speed) for name, speed in found.items()}
    slow = slow_units(space.units, speeds)
    return speeds, {name: reason for name, reason in slow.items() if not is_asked_for(name, run.arguments)}


def _slowing_units(
    run: Run,
    candidates: Candidates,
    space: TuningSpace,
    plans: Sequence[SmoothingPlan],
    speeds: Mapping[str, UnitSpeed],
) -> dict[str, str]:
    """Operators that make the whole model slower than fp32, by name, each with the reason; no evaluation is spent."""
    free = [
        unit
        for unit in space.units
        if is_meant_to_be_fast(run.adaptor, unit)
        and not any(is_asked_for(name, run.arguments) for name in unit.operator_names)
    ]
    start = plans[0].assignment(space, run.sampling_sizes[0])

    def gain(fallen: Sequence[str]) -> float | None:
        if run.phases.expired():
            return None
        assignment = space.without(start, fallen)
        try:
            model = candidates.build(assignment)
        except Exception:
            # The search meets the same candidate and says what is wrong with it.
            logger.debug("the speed of the whole model is not known: it could not be built", exc_info=True)
            return None
        return candidates.gain(assignment, model, "performance")

    def compute() -> dict[str, str]:
        lost = losing_chains(free, speeds, gain)
        rest = [unit for unit in free if lost.keys().isdisjoint(unit.operator_names)]
        fallen = [unit.name for unit in free if unit not in rest]
        return {**lost, **slowing_units(rest, speeds, lambda more: gain([*fallen, *more]))}

    if run.arguments.objective != "performance" or not isinstance(run.adaptor, SupportsTiming):
        return {}
    slowing: dict[str, str] = run.history.work.once("slowing units", compute, keep=lambda: not run.phases.expired())
    return slowing


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

    forms, steps = searched_forms(arguments), planned_steps(arguments, space)

    def compute() -> list[dict[str, Any]]:
        total = None if steps is None else steps + planned_forms(forms) + planned_forms(COMPARED_AGAIN)
        with run.phases.phase("smoothing", total) as advance:
            size, known = run.sampling_sizes[-1], searched_alphas(arguments)
            limits: dict[str, Any] = {"expired": run.phases.expired, "advance": advance}
            plans = plan_smoothing(run.adaptor, run.model, space, arguments, size, **limits)
            # Rounding by second moments takes as long as comparing several plans, so it comes last, and what it may
            # decide otherwise is asked again.
            lost: set[FormName] = set()
            plans = plan_forms(run.adaptor, run.model, space, plans, forms, size, alphas=known, hopeless=lost, **limits)
            requested = run.arguments.weight_rounding
            plans = plan_rounding(run.adaptor, run.model, space, plans, requested, size, alphas=known, **limits)
            if plans[0].rounded:
                again = [name for name in forms if name in COMPARED_AGAIN and name not in lost]
                plans = plan_forms(run.adaptor, run.model, space, plans, again, size, alphas=known, **limits)
        return [asdict(plan) for plan in plans]

    # A search that the clock cut short is not what a later run, with more time, should find.
    plans = run.history.work.once("smoothing plans", compute, keep=lambda: not run.phases.expired())
    return tuple(SmoothingPlan.from_dict(plan) for plan in plans)


def _find_corrections(run: Run, choices: Choices, smoothing: SmoothingPlan) -> tuple[CorrectionPlan, ...]:
    """The corrections to make and the plans they were compared with; none where no operator can have one."""
    able = choices.corrected(run.adaptor, run.model, CORRECTIONS).space
    configs = smoothing.assignment(able, run.sampling_sizes[-1]).by_unit  # rounded as the plan says
    possible = {
        name
        for unit in able.units
        for operator in unit.operator_names
        for name in possible_corrections(run.adaptor, run.model, operator, configs[unit.name])
    }
    requested = {name: choice for name, choice in run.arguments.corrections.items() if name in possible}

    def tune_cfg(corrections: tuple[Correction, ...]) -> dict[str, Any]:
        space = choices.corrected(run.adaptor, run.model, corrections).space
        return space.tune_cfg(smoothing.assignment(space, run.sampling_sizes[-1]))

    def compute() -> list[dict[str, Any]]:
        with run.phases.phase("corrections", planned_corrections(requested)) as advance:
            plans = plan_corrections(
                run.adaptor,
                run.model,
                requested,
                tune_cfg,
                uncorrected=smoothing.output_error,
                expired=run.phases.expired,
                advance=advance,
            )
        return [asdict(plan) for plan in plans]

    found: list[dict[str, Any]] = []
    if any(requested.values()):
        found = run.history.work.once("corrections", compute, keep=lambda: not run.phases.expired())
    plans = [CorrectionPlan(**{**each, "corrections": tuple(each["corrections"])}) for each in found]
    unheeded = [name for name, choice in run.arguments.corrections.items() if choice is True and name not in possible]
    if unheeded:
        note = f"recipes: {listing(unheeded)} has no effect: no operator that is quantized can be corrected so"
        logger.warning("%s", note)
        plans = [replace(each, note=note) for each in plans[:1] or [CorrectionPlan()]] + plans[1:]
    return tuple(plans)
