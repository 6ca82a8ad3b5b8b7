"""A tuning result as plain values, and back: for scripts, and beside the study of a run that has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

import inc_autotune
from inc_autotune.core.analysis import UnitHarm
from inc_autotune.core.arguments import AccuracyCriterion
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.evaluation import Goal
from inc_autotune.core.plain_values import finite
from inc_autotune.core.result.build import choose_best
from inc_autotune.core.result.operator_outcome import OperatorOutcome
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study import StoredRun, Trial
from inc_autotune.core.space import Assignment
from inc_autotune.core.vocabulary import Objective

FORMAT = 1

_PLAIN = (
    *("met", "score", "baseline", "goal", "target", "evidence", "objective", "speedup", "size_ratio", "gain", "timed"),
    *("evaluations", "sampling_size", "trained", "training_seconds", "weights_file", "ended"),
)
"""Fields that are plain values, and stand under their own names."""

_TRIAL = (
    *("state", "score", "met", "error", "interrupted", "seconds", "gain", "verdict", "interval", "samples"),
    *("stopped_early", "training_seconds"),
)


def to_document(result: TuningResult) -> dict[str, Any]:
    """See `TuningResult.to_dict`. Trials are counted from 1, as people read them."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "inc_autotune": inc_autotune.__version__,
        **{name: getattr(result, name) for name in _PLAIN},
        "chosen": _counted(result.chosen),
        "weights": result.weight_shares,
        "operators": [{**dataclasses.asdict(each), "corrections": list(each.corrections)} for each in result.operators],
        "trials": [
            {
                "number": _counted(each.number),
                "tried": each.label,
                **{name: getattr(each, name) for name in _TRIAL},
                "trained_from": _counted(each.trained_from),
                "assignment": each.assignment.to_dict(),
            }
            for each in result.trials
        ],
        "smoothing": [list(each) for each in result.smoothing],
        "corrections": [list(each) for each in result.corrections],
        "harms": [dataclasses.asdict(each) for each in result.harms],
        "phases": result.phases,
        "notes": list(result.notes),
    }
    plain: dict[str, Any] = finite(document)
    return plain


def from_document(values: Mapping[str, Any]) -> TuningResult:
    """See `TuningResult.from_dict`."""
    if values.get("format") != FORMAT:
        raise ArgumentError(
            f"the result has format {values.get('format')!r}, and this version of inc_autotune reads {FORMAT}. "
            "Give what `tune --json` printed, or TuningResult.to_dict() returned."
        )
    try:
        harms = tuple(TypeAdapter(UnitHarm).validate_python(each) for each in values["harms"])
        return TuningResult(
            **{name: TypeAdapter(_TYPES[name]).validate_python(values[name]) for name in _PLAIN},
            chosen=None if values["chosen"] is None else int(values["chosen"]) - 1,
            operators=tuple(TypeAdapter(OperatorOutcome).validate_python(each) for each in values["operators"]),
            trials=tuple(map(_trial, values["trials"])),
            smoothing=_PLANS.validate_python(values["smoothing"]),
            corrections=_PLANS.validate_python(values["corrections"]),
            harms=harms,
            phases=TypeAdapter(dict[str, float]).validate_python(values["phases"]),
            notes=TypeAdapter(tuple[str, ...]).validate_python(values["notes"]),
        )
    except (ValidationError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"the result is damaged: {type(error).__name__}: {' '.join(str(error).split())}. Give what `tune --json` "
            "printed, or TuningResult.to_dict() returned."
        ) from error


def result_so_far(run: StoredRun) -> TuningResult:
    """What a stored run came to: its result, or what is known of one that has not ended.

    Raises:
        ArgumentError: what is stored is damaged, or of another version.
    """
    if run.result is not None:
        return from_document(run.result)
    goal, best = None, None
    described = run.goal or {}
    baseline = None if run.baseline is None else run.baseline.mean
    if baseline is not None and run.goal is not None:
        names = ("relative", "absolute", "higher_is_better")
        goal = Goal(baseline, AccuracyCriterion.model_validate({name: described.get(name) for name in names}))
        best = choose_best(goal, run.trials)
    sizes = [trial.assignment.sampling_size for trial in run.trials]
    return TuningResult(
        met=None if best is None else best.met,
        baseline=baseline,
        score=None if best is None else best.score,
        goal=None if goal is None else goal.describe(),
        target=None if goal is None else goal.target,
        trials=run.trials,
        evaluations=(baseline is not None) + sum(trial.state != "running" for trial in run.trials),
        operators=(),
        speedup=None,
        size_ratio=None,
        smoothing=(),
        sampling_size=max(sizes, default=0),
        chosen=None if best is None else best.number,
        objective=TypeAdapter(Objective).validate_python(described.get("objective", "performance")),
        ended=False,
    )


_TYPES: Mapping[str, Any] = {
    "met": bool | None,
    "score": float | None,
    "baseline": float | None,
    "goal": str | None,
    "target": float | None,
    "evidence": str | None,
    "objective": Objective,
    "speedup": float | None,
    "size_ratio": float | None,
    "gain": float | None,
    "timed": str,
    "evaluations": int,
    "sampling_size": int,
    "trained": bool,
    "training_seconds": float,
    "weights_file": str | None,
    "ended": bool,
}
_PLANS: TypeAdapter[tuple[tuple[str, float | None], ...]] = TypeAdapter(tuple[tuple[str, float | None], ...])


def _trial(values: Mapping[str, Any]) -> Trial:
    came_from = values["trained_from"]
    plain: Trial = TypeAdapter(Trial).validate_python(
        {
            **{name: values[name] for name in _TRIAL},
            "number": int(values["number"]) - 1,
            "label": values["tried"],
            "trained_from": None if came_from is None else int(came_from) - 1,
            "assignment": Assignment.from_dict(values["assignment"]),
        }
    )
    return plain


def _counted(number: int | None) -> int | None:
    return None if number is None else number + 1
