"""Trials and results as numbers and words, the same for every tracker."""

from __future__ import annotations

from collections import Counter

from inc_autotune.core.result import TuningResult
from inc_autotune.core.search.study import Trial


def trial_metrics(trial: Trial) -> dict[str, float]:
    """What is a number of a trial; what was not measured is left out."""
    forms = Counter(config.dtype for config in trial.assignment.by_unit.values())
    measured = {
        "score": trial.score,
        "gain": trial.gain,
        "seconds": trial.seconds,
        "training_seconds": trial.training_seconds,
        "met": float(trial.met),
        "samples": trial.samples,
        **dict(zip(("loss_low", "loss_high"), trial.interval or (None, None), strict=True)),
        **{f"units_{dtype}": count for dtype, count in forms.items()},
    }
    return {name: float(value) for name, value in measured.items() if value is not None}


def trial_words(trial: Trial) -> dict[str, str]:
    """What is said of a trial."""
    words = {"tried": trial.label, "state": trial.state, "verdict": trial.verdict, "error": trial.error}
    return {name: value for name, value in words.items() if value}


def result_metrics(result: TuningResult) -> dict[str, float]:
    """What is a number of a result."""
    measured = {
        "fp32_score": result.baseline,
        "best_score": result.score,
        "target_score": result.target,
        "goal_met": None if result.met is None else float(result.met),
        "speedup": result.speedup,
        "size_ratio": result.size_ratio,
        "evaluations": result.evaluations,
        **{f"seconds_{phase}": seconds for phase, seconds in result.phases.items()},
        **{f"weight_share_{form}": share for form, share in result.weight_shares.items()},
    }
    return {name.replace(" ", "_"): float(value) for name, value in measured.items() if value is not None}
