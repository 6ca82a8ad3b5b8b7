"""Trials of Optuna while they run, which other processes may end at any moment."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from inc_autotune.core.search.study.patient_storage import TOKEN
from inc_autotune.core.search.study.quiet import quiet_optuna

FP32_UNITS = "units in fp32"
"""The parameter of a trial."""


@dataclass(frozen=True)
class Description:
    """What a trial carries from its beginning.

    Args:
        shown: values by name, which viewers of studies show in one line each.
        hidden: values by name that only this library reads, of any length.
        fp32_units: units that stay in float32, of how many: the one number by which viewers can order trials.
    """

    shown: Mapping[str, Any]
    hidden: Mapping[str, Any] = field(default_factory=dict)
    fp32_units: tuple[int, int] | None = None


def begin_trial(study: optuna.Study, description: Description) -> optuna.Trial:
    """Begin a trial together with its attributes, in one transaction.

    After `Study.ask` the trial would be empty at first, and every attribute a transaction of its own.
    """
    token = uuid.uuid4().hex
    marked = {**description.shown, TOKEN: token}
    parameters: dict[str, Any] = {}
    if description.fp32_units is not None:
        count, most = description.fp32_units
        parameters["params"] = {FP32_UNITS: count}
        parameters["distributions"] = {FP32_UNITS: optuna.distributions.IntDistribution(0, max(1, most))}
    with quiet_optuna():
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING, user_attrs=marked, system_attrs=dict(description.hidden), **parameters
        )
        study.add_trial(template)
    # Of any state: others who take this process for dead may have ended the trial already.
    for frozen in reversed(study.get_trials(deepcopy=False)):
        if frozen.user_attrs.get(TOKEN) == token:
            return optuna.Trial(study, frozen._trial_id)
    raise AssertionError("a trial that was added is found")


def end_trial(study: optuna.Study, trial: optuna.Trial | int, state: TrialState, score: float | None = None) -> None:
    """End a trial in Optuna's terms, unless another process has ended it.

    A process that was silent for long, or whose database was away, is taken for dead, and its trials are ended by the
    others: by several of them at once, and also between Optuna's look at the state and its write.

    Args:
        trial: the trial, or its number.
        score: with the state COMPLETE.
    """
    with quiet_optuna(), suppress(UpdateFinishedTrialError):
        study.tell(trial, score, state=state, skip_if_finished=True)
