"""The end of a tuning run: the best model with its result, or what was found before an evaluation raised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from inc_autotune.core.errors import EvaluationError, QuantizationError, TrainingError
from inc_autotune.core.evaluation import Goal
from inc_autotune.core.result import TuningResult, build_result
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space import Assignment
from inc_autotune.core.tuner.loop import Search
from inc_autotune.core.tuner.preparation import Preparation
from inc_autotune.core.tuner.run import Run


@dataclass(frozen=True)
class Tuned:
    """A tuned model and how it came about."""

    model: Any
    result: TuningResult


def finish_unevaluated(run: Run, known: Preparation) -> Tuned:
    """Everything quantized by the best smoothing plan, and trained if that is asked for, without a claim.

    Raises:
        TrainingError: `train_func` raised, or left another model.
    """
    assignment = known.plans[0].assignment(known.choices.space, run.sampling_sizes[-1])
    if run.arguments.approach == "qat":
        trained = replace(assignment, trained=run.trainings.mark)
        outcome = run.trainings.run(known.candidates.space, trained, f"smoothing {known.plans[0].name}")
        assignment = trained if outcome.problem is None else assignment
    return _finish(run, known, None, assignment, None, known.candidates.build(assignment))


def finish_best(search: Search) -> Tuned:
    """The best trial of all.

    Raises:
        QuantizationError: no trial came to a score.
    """
    best = search.best
    if best is None:
        errors = [trial.error for trial in search.run.history.trials() if trial.error]
        raise QuantizationError(
            f"no candidate could be built and evaluated; the last of {len(errors)} errors: "
            f"{errors[-1] if errors else 'none'}"
        )
    return _finish_trial(search, best)


def partial_result(search: Search) -> TuningResult | None:
    """Everything found so far, with the best model; None where no trial was finished."""
    best = search.best
    if best is None:
        return None
    tuned = _finish_trial(search, best)
    tuned.result.model = tuned.model
    return tuned.result


def with_partial_result(error: EvaluationError, search: Search) -> EvaluationError:
    """The error of an evaluation, which says whether something was found before it, and carries that."""
    partial = partial_result(search)
    if isinstance(error, TrainingError):
        found = "" if partial is None else " The finished trials and the best model so far are in .partial_result."
        return TrainingError(f"{error}{found}", partial, error.student)
    kept = (
        "No trial was finished before it."
        if partial is None
        else "The finished trials and the best model so far are in this exception's .partial_result."
    )
    return EvaluationError(f"{error} {kept}", partial)


def _finish_trial(search: Search, trial: Trial) -> Tuned:
    return _finish(search.run, search.known, search.goal, trial.assignment, trial, search.model_of(trial))


def _finish(
    run: Run, known: Preparation, goal: Goal | None, assignment: Assignment, trial: Trial | None, candidate: Any
) -> Tuned:
    """Measure what is not measured yet, and put the result together."""
    objective, candidates, choices = run.arguments.objective, known.candidates, known.choices
    space = known.space_of(assignment)
    measured = None if trial is None else trial.gain
    gain = candidates.last_gain(assignment, candidate, objective) if measured is None else measured
    speedup = gain if objective == "performance" else candidates.last_gain(assignment, candidate, "performance")
    in_threads = candidates.speedup_in_threads(assignment, candidate)
    if speedup is not None and in_threads is not None:
        # On the wall of a busy machine fp32 may seem many times as slow as it is.
        speedup = min(speedup, in_threads)
    if objective == "performance":
        gain = speedup
    tune_cfg = run.trainings.tune_cfg(space, assignment)
    tuned_model = run.adaptor.tuned_model(tune_cfg, run.model, candidate)
    result = build_result(
        adaptor=run.adaptor,
        model=run.model,
        candidate=candidate,
        options=choices.offered,
        fp32_reasons=choices.fp32_reasons,
        space=space,
        assignment=assignment,
        tune_cfg=tune_cfg,
        trained=run.trainings.operators(assignment),
        weights_file=run.trainings.file(assignment),
        trial=trial,
        goal=goal,
        trials=run.history.trials(),
        plans=known.plans,
        corrections=known.corrections,
        ranks=known.ranking.ranks,
        evaluations=known.evaluations.count,
        objective=objective,
        gain=gain,
        speedup=speedup,
        phases=run.phases.seconds,
        notes=(*run.history.notes, *candidates.notes, *run.trainings.notes, *known.notes),
    )
    return Tuned(tuned_model, result)
