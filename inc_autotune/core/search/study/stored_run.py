"""Tuning runs as a storage holds them, read without taking part in any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.core.evaluation import Scores
from inc_autotune.core.search.study.history import (
    BASELINE,
    GOAL,
    ORIGIN,
    RESULT,
    SHARED_WORK,
    baseline_of,
    ended,
    is_ours,
    thaw,
)
from inc_autotune.core.search.study.process import Process, is_gone
from inc_autotune.core.search.study.quiet import quiet_optuna
from inc_autotune.core.search.study.shared_work import OWNER
from inc_autotune.core.search.study.storage import KEY, open_existing
from inc_autotune.core.search.study.storage_url import shown_url
from inc_autotune.core.search.study.text_attributes import read_text
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.search.study.workers import registered_workers


@dataclass(frozen=True)
class WorkerProcess:
    """A process that takes part in a run, as far as can be told from here: on another machine it may have ended.

    Args:
        host: its machine.
        number: of the process there.
        trials: numbers of the trials that it evaluates.
    """

    host: str
    number: int
    trials: tuple[int, ...]


@dataclass(frozen=True)
class StoredRun:
    """One tuning run.

    Args:
        study_name: of its study.
        trials: in order, with those that run at this moment; those of processes that have gone count as interrupted.
        baseline: the fp32 model's scores; None before they are known.
        goal: what is asked of a score, in plain values; None where nothing says so.
        origin: what started it, in plain values; None where that was not the command line.
        result: how it ended, in plain values; None where it has not.
        workers: processes that take part.
    """

    study_name: str
    trials: tuple[Trial, ...]
    baseline: Scores | None
    goal: Mapping[str, Any] | None
    origin: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    workers: tuple[WorkerProcess, ...]


def read_runs(storage: str) -> tuple[StoredRun, ...]:
    """The tuning runs that a storage holds, in the order in which they were started. Nothing is written.

    Args:
        storage: an Optuna storage URL.

    Raises:
        ArgumentError: it cannot be opened, is no storage of Optuna, or holds studies of others alone.
        MissingDependencyError: its driver is not installed.
    """
    opened = open_existing(storage)
    with quiet_optuna():
        names = [each.study_name for each in optuna.get_all_study_summaries(opened)]
        studies = {name: optuna.load_study(study_name=name, storage=opened) for name in names}
    runs = tuple(
        _read(study, studies.get(name + SHARED_WORK))
        for name, study in studies.items()
        if KEY in study.user_attrs and not name.endswith(SHARED_WORK)
    )
    if not runs:
        others = f" Its studies, of another program: {', '.join(map(repr, names[:3]))}." if names else ""
        raise ArgumentError(f"storage={shown_url(storage)!r}: holds no tuning run.{others}")
    return runs


def choose_run(runs: Sequence[StoredRun], study_name: str | None) -> StoredRun:
    """The run of that name; the only one where no name is given.

    Raises:
        ArgumentError: there is none of that name, or several to choose from.
    """
    names = [each.study_name for each in runs]
    if study_name is None and len(runs) == 1:
        return runs[0]
    listed = ", ".join(map(repr, names))
    if study_name is None:
        raise ArgumentError(f"study_name: the storage holds several runs. Name one of {listed}.")
    found = next((each for each in runs if each.study_name == study_name), None)
    if found is None:
        raise ArgumentError(
            f"study_name={study_name!r}: the storage has no such run. Allowed: {listed}."
            f"{did_you_mean(study_name, names)}"
        )
    return found


def _read(study: optuna.Study, shared: optuna.Study | None) -> StoredRun:
    attributes = study.user_attrs
    processes = {} if shared is None else _processes(shared)
    owners: dict[int, str] = {}
    trials = []
    for frozen in filter(is_ours, study.get_trials(deepcopy=False)):
        owner = str(frozen.user_attrs.get(OWNER))
        if frozen.state == TrialState.RUNNING and owner in processes:
            owners[frozen.number] = owner
        if frozen.state.is_finished() and frozen.state != TrialState.PRUNED:
            trials.append(thaw(frozen))
        elif frozen.state == TrialState.RUNNING:
            trials.append(thaw(frozen) if owner in processes else ended(frozen))
    name = attributes.get(RESULT)
    return StoredRun(
        study.study_name,
        tuple(trials),
        baseline_of(attributes) if BASELINE in attributes else None,
        attributes.get(GOAL),
        _decoded(read_text(attributes, ORIGIN)),
        None if name is None else _decoded(read_text(attributes, str(name))),
        tuple(
            WorkerProcess(each.host, each.number, tuple(number for number, owner in owners.items() if owner == worker))
            for worker, each in processes.items()
        ),
    )


def _processes(shared: optuna.Study) -> dict[str, Process]:
    """Processes by worker, but for those that have left, or have ended on this machine."""
    found = {
        worker: Process(**entry["process"])
        for worker, entry in registered_workers(shared.user_attrs).items()
        if entry["heartbeat"] > 0
    }
    return {worker: process for worker, process in found.items() if not is_gone(process)}


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
