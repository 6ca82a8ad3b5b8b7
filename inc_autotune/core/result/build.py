"""From finished trials to the best one, its reasons and its recipe."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import inc_autotune
from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import (
    CorrectionPlan,
    SmoothingPlan,
    SupportsRounding,
    UnitHarm,
    operator_weights,
    possible_corrections,
    with_share,
)
from inc_autotune.core.analysis.gain import gain as measured_gain
from inc_autotune.core.analysis.weight_shares import weight_shares
from inc_autotune.core.evaluation import Goal, Judgement
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.result.operator_outcome import OperatorOutcome
from inc_autotune.core.result.recipe import OperatorRecipe, Recipe
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space import Assignment, OperatorKey, TuningSpace
from inc_autotune.core.vocabulary import Objective

GAIN_TIE = 0.03
"""Gains up to 3 % below the largest one count as equal: two measurements of one model differ by as much."""


def choose_best(goal: Goal, trials: Sequence[Trial]) -> Trial | None:
    """The best complete trial; None if no trial is complete.

    1. Trials that met the goal come before trials that did not.
    2. If no trial met the goal, the better score decides, then the lower number.
    3. If some did, trials whose measured gain is more than `GAIN_TIE` below the largest one drop out. The fewest units
       in float decide, then the fewest dynamic units, the better score, the lower number.

    The order of `trials` does not matter.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    met = [trial for trial in complete if trial.met]
    if not met:
        return min(complete, key=lambda trial: (_loss(goal, trial), trial.number), default=None)
    least = (1 - GAIN_TIE) * max((trial.gain for trial in met if trial.gain is not None), default=0.0)
    equal = [trial for trial in met if trial.gain is None or trial.gain >= least]
    return min(equal, key=lambda trial: (trial.assignment.relaxations, _loss(goal, trial), trial.number))


def _loss(goal: Goal, trial: Trial) -> float:
    assert trial.score is not None
    return goal.loss(trial.score)


def warn_of_shortcomings(result: TuningResult, stacklevel: int) -> None:
    """Warn the user, at the given stack level, of a goal that was not met and of a model that is not faster."""
    if result.met is False:
        tried = f"{len(result.trials)} trial{'s' * (len(result.trials) != 1)}"
        warnings.warn(
            f"the accuracy goal was not met in {tried} (score {result.score:g}, goal "
            f"{result.goal}); the best model found is returned. Loosen accuracy_criterion, or raise max_trials or "
            "tuning_time.",
            stacklevel=stacklevel + 1,
        )
    if result.speedup is not None and result.speedup < 1.0:
        warnings.warn(
            f"the tuned model is not faster than fp32 on this machine ({result.speedup:.2f}x; {result.timed}). "
            "Give example_inputs of the size you deploy; or keep the fp32 model.",
            stacklevel=stacklevel + 1,
        )


def build_result(
    *,
    adaptor: Adaptor,
    model: Any,
    candidate: Any,
    options: Mapping[OperatorKey, Sequence[OpConfig]],
    fp32_reasons: Mapping[str, str],
    space: TuningSpace,
    assignment: Assignment,
    tune_cfg: Mapping[str, Any],
    trial: Trial | None,
    goal: Goal | None,
    trials: Sequence[Trial],
    plans: Sequence[SmoothingPlan],
    corrections: Sequence[CorrectionPlan],
    ranks: Mapping[str, Sequence[UnitHarm]],
    evaluations: int,
    speedup: float | None,
    phases: dict[str, float],
    notes: Sequence[str] = (),
    objective: Objective = "performance",
    gain: float | None = None,
    trained: Collection[str] = (),
    weights_file: Path | None = None,
) -> TuningResult:
    """Put together what the phases of a run found."""
    operators = _operators(adaptor, model, options, fp32_reasons, space, assignment, ranks)
    operators = tuple(replace(each, trained=each.name in trained) for each in operators)
    simulated = sum(operator.simulated for operator in operators)
    calibration, arrays = adaptor.to_recipe(tune_cfg, model)
    configs = {
        name: _own(adaptor, model, name, assignment.by_unit[unit.name])
        for unit in space.units
        for name in unit.operator_names
    }
    recipe = Recipe(
        framework=adaptor.framework,
        operators={
            operator.name: OperatorRecipe(
                operator.type, configs.get(operator.name, FP32), operator.reason, calibration.get(operator.name, {})
            )
            for operator in operators
        },
        arrays=arrays,
        metadata={
            "inc_autotune": inc_autotune.__version__,
            "sampling_size": assignment.sampling_size,
            "baseline": goal.baseline if goal else None,
            "score": trial.score if trial else None,
            "met": trial.met if trial else None,
            **({"smoothing": _compared(plans)} if plans else {}),
            **({"corrections": _compared(corrections)} if corrections else {}),
            **({"trained": sorted(trained)} if assignment.trained else {}),
        },
        settings=adaptor.recipe_settings(tune_cfg),
    )
    return TuningResult(
        met=trial.met if trial else None,
        baseline=goal.baseline if goal else None,
        score=trial.score if trial else None,
        goal=goal.describe() if goal else None,
        evidence=_evidence(trial, goal) if trial and goal else None,
        trials=tuple(trials),
        evaluations=evaluations,
        operators=operators,
        speedup=speedup,
        objective=objective,
        gain=gain,
        size_ratio=measured_gain(adaptor, "modelsize", model, candidate),
        timed=adaptor.timed,
        smoothing=tuple((plan.name, plan.output_error) for plan in plans),
        corrections=tuple((plan.name, plan.output_error) for plan in corrections),
        sampling_size=assignment.sampling_size,
        phases=dict(phases),
        notes=(*adaptor.notes(), *_simulation_note(simulated), *chance_note(trial, trials), *notes),
        recipe=recipe,
        target=goal.target if goal else None,
        chosen=trial.number if trial else None,
        harms=tuple(list(ranks.values())[-1]) if ranks else (),
        trained=assignment.trained is not None,
        training_seconds=sum(each.training_seconds or 0.0 for each in trials) or phases.get("training", 0.0),
        weights_file=None if weights_file is None else str(weights_file),
    )


def _compared(plans: Sequence[SmoothingPlan] | Sequence[CorrectionPlan]) -> list[dict[str, Any]]:
    """Plans that were compared at the output, the one that was used first: why operators have the rungs they have."""
    return [{"plan": plan.name, "output_error": plan.output_error} for plan in plans]


def _own(adaptor: Adaptor, model: Any, name: str, config: OpConfig) -> OpConfig:
    """The configuration of a unit without the corrections that only others of its operators can have."""
    if not config.corrections:
        return config
    able = possible_corrections(adaptor, model, name, config)
    return config.with_corrections(each for each in config.corrections if each in able)


def _evidence(trial: Trial, goal: Goal) -> str | None:
    """How sure the verdict is."""
    if trial.score is None or trial.verdict not in ("pass", "fail", "undecided"):
        return None
    return Judgement(
        trial.score, trial.met, trial.verdict, trial.interval, count=trial.samples, stopped_early=trial.stopped_early
    ).describe(goal)


def chance_note(trial: Trial | None, trials: Sequence[Trial]) -> tuple[str, ...]:
    """How far a pass on one number can be chance, where several candidates were tried; else nothing.

    A candidate that is exactly as good as the goal asks passes by chance half of the time, a worse one less often. If
    all were at most that good, the number of passes would be binomial at most.
    """
    if trial is None or not trial.met or trial.interval is not None:
        return ()
    scored = [each for each in trials if each.score is not None]
    passed = sum(each.met for each in scored)
    if len(scored) < 2:
        return ()
    chance = sum(math.comb(len(scored), count) for count in range(passed, len(scored) + 1)) / 2 ** len(scored)
    return (
        f"{passed} of {len(scored)} candidates met the goal, each judged by one number: if none were better than "
        f"the goal asks, so many would pass by chance with a probability of up to {chance:.0%}. Let eval_func return "
        "the scores of single samples, and the verdict counts with chance",
    )


def _simulation_note(simulated: int) -> tuple[str, ...]:
    if not simulated:
        return ()
    return (f"{simulated} operators simulated in fp32, since no kernel exists for their types; no speed-up is claimed",)


def _operators(
    adaptor: Adaptor,
    model: Any,
    options: Mapping[OperatorKey, Sequence[OpConfig]],
    fp32_reasons: Mapping[str, str],
    space: TuningSpace,
    assignment: Assignment,
    ranks: Mapping[str, Sequence[UnitHarm]],
) -> tuple[OperatorOutcome, ...]:
    """Every operator of a known type with its form and the reason for it."""
    unit_of = {name: unit for unit in space.units for name in unit.operator_names}
    places = _places(ranks)
    is_rounded = any(config.rounding == "second_moment" for config in assignment.by_unit.values())
    outcomes = []
    for (name, op_type), offered in options.items():
        unit = unit_of.get(name)
        config = _own(adaptor, model, name, assignment.by_unit[unit.name]) if unit else FP32
        if unit is None:
            reason = fp32_reasons.get(name) or _why_no_choice(offered)
        elif assignment.by_unit[unit.name].as_offered == unit.options[0]:
            reason = ""
        else:
            reason = places.get(unit.name, "chosen by the strategy")
        simulated = config.is_quantized and adaptor.is_simulated(name, config)
        outcomes.append(
            OperatorOutcome(
                name,
                op_type,
                config.dtype,
                config.approach,
                config.alpha,
                reason,
                simulated,
                corrections=config.corrections,
                rounding=config.rounding,
                smoothing_form="" if config.alpha is None else config.form.describe(),
                rounding_reason=_why_nearest(adaptor, name, config) if is_rounded else None,
            )
        )
    skipped = [
        OperatorOutcome(name, adaptor.operator_type(model, name), "fp32", None, None, reason)
        for name, reason in adaptor.skipped(model).items()
    ]
    weights = operator_weights(adaptor, model)
    shares = weight_shares(weights, {each.name: each.form for each in (*outcomes, *skipped)})
    # No two operators of one name: the share belongs to the name.
    skipped = [replace(each, reason=with_share(each.reason, shares.get(each.name))) for each in skipped]
    return tuple(replace(each, weight_share=shares.get(each.name)) for each in (*outcomes, *skipped))


def _why_nearest(adaptor: Adaptor, name: str, config: OpConfig) -> str | None:
    if not config.is_quantized or config.rounding != "nearest" or not isinstance(adaptor, SupportsRounding):
        return None
    return adaptor.rounding_reason(name)


def _why_no_choice(offered: Sequence[OpConfig]) -> str:
    """The reason for fp32 if rules excluded every quantized option of an operator."""
    approaches = {option.approach for option in offered if option.is_quantized}
    if approaches == {"weight_only"}:
        return "on request only: objective='modelsize' or 'footprint', or a rule"
    possible = " or ".join(sorted(filter(None, approaches)))
    return f"ruled out by op_type_dict, op_name_dict, approach or excluded_precisions; it can be {possible}"


def _places(ranks: Mapping[str, Sequence[UnitHarm]]) -> dict[str, str]:
    """Why units fell back, by unit: the place in the last ranking by harm."""
    if not ranks:
        return {}
    harms = list(ranks.values())[-1]
    return {harm.unit: f"harm rank {place} of {len(harms)}{_cost(harm)}" for place, harm in enumerate(harms, start=1)}


def _cost(harm: UnitHarm) -> str:
    """The output error that a unit alone causes, and the share of its activation."""
    if harm.error is None:
        return ""
    text = f": alone it costs an output error of {'about ' if harm.estimated else ''}{harm.error:.1e}"
    if harm.activation_share is None:
        return text
    return f"{text}, {harm.activation_share:.0%} of it from its activation"
