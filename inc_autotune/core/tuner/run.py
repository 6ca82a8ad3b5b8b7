"""One call of `tune`: what is tuned, how, and which trials it shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import inc_autotune
from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.progress import Phases
from inc_autotune.core.run_context import run_context
from inc_autotune.core.search import Evaluate, Quantize, Trainings
from inc_autotune.core.search.study import STORAGE_FORMAT, History, StudyKey, callable_fingerprint
from inc_autotune.core.space import TuningSpace


@dataclass(frozen=True)
class Run:
    """What every step of a tuning run uses.

    Args:
        adaptor: calibrated.
        model: the fp32 model.
        quantize: builds candidates of it.
        evaluate: the user's evaluation; None: nothing is evaluated, and nothing claimed.
        arguments: the user's.
        sampling_sizes: numbers of calibration samples to try, as many as there are.
        phases: times the steps, and knows when the user's time is over.
        history: the trials, and what processes of the run share.
        trainings: train models, and have their weights.
    """

    adaptor: Adaptor
    model: Any
    quantize: Quantize
    evaluate: Evaluate | None
    arguments: AutotuneArguments
    sampling_sizes: tuple[int, ...]
    phases: Phases
    history: History
    trainings: Trainings


def study_key(
    adaptor: Adaptor, model: Any, evaluate: Evaluate | None, space: TuningSpace, arguments: AutotuneArguments
) -> StudyKey:
    """The user's name or ours, with everything that decides a score."""
    prefix = arguments.study_name or "autotune"
    fingerprint = adaptor.fingerprint(model) if arguments.storage else None
    if fingerprint is None:
        return StudyKey(prefix, {})
    # What trains is part of the trials that it trained: the others stay what they are where it changes.
    excluded = {"storage", "study_name", "progress", "max_trials", "tuning_time"}
    excluded |= {"train_func", "training_args", "on_trial"}
    return StudyKey(
        prefix,
        {
            "inc_autotune": [inc_autotune.__version__, STORAGE_FORMAT],
            "model or calibration data (or example_inputs)": fingerprint,
            "evaluation": evaluation_fingerprint(evaluate),
            "operators": [(unit.operators, [option.to_dict() for option in unit.options]) for unit in space.units],
            **arguments.model_dump(exclude=excluded, warnings=False),
        },
    )


def evaluation_fingerprint(evaluate: Evaluate | None) -> str | None:
    """What of the evaluation is part of the key; None without one."""
    if evaluate is None:
        return None
    return run_context().evaluation or callable_fingerprint(evaluate)
