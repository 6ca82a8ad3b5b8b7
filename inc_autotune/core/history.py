"""Finished trials, kept in an Optuna study.

In memory by default. With a storage URL such as `sqlite:///run.db` the same call after a crash finds the trials
it already paid for: the study's name carries a hash of everything that decides a score.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.space import Assignment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate.

    Args:
        number: counted from 0, in the order of the study.
        label: what the strategy tried, for people.
        state: `complete` with a score, or `failed` with an error.
        score: what the evaluation returned.
        met: whether the score met the goal.
        interrupted: the evaluation raised; a resumed run tries the same again.
        seconds: wall time of building and evaluating the candidate.
        speedup: fp32 seconds over candidate seconds, where measured.
    """

    number: int
    assignment: Assignment
    label: str
    state: Literal["complete", "failed"]
    score: float | None = None
    met: bool = False
    error: str | None = None
    interrupted: bool = False
    seconds: float = 0.0
    speedup: float | None = None

    def attributes(self) -> dict[str, Any]:
        """What is stored with the Optuna trial."""
        return {
            "assignment": self.assignment.to_dict(),
            "label": self.label,
            "met": self.met,
            "error": self.error,
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "speedup": self.speedup,
        }


def check_storage(storage: str | None) -> None:
    """Open a storage once, before a long run depends on it.

    Raises:
        ArgumentError: it cannot be opened.
    """
    if storage is not None:
        with _storage_errors(storage), _quiet_optuna():
            optuna.storages.get_storage(storage)


class History:
    """The trials of one tuning run."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    @classmethod
    def open(cls, *, storage: str | None, name: str, higher_is_better: bool) -> History:
        """Open or create the study `name`.

        Raises:
            ArgumentError: the storage cannot be opened.
        """
        with _storage_errors(storage), _quiet_optuna():
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                sampler=optuna.samplers.RandomSampler(seed=0),
                load_if_exists=True,
            )
        history = cls(study)
        if history.trials():
            logger.info("study %s: resuming with %d finished trials", name, len(history.trials()))
        return history

    @property
    def baseline(self) -> float | None:
        """The fp32 model's score, once known."""
        value = self.study.user_attrs.get("baseline")
        return None if value is None else float(value)

    @baseline.setter
    def baseline(self, value: float) -> None:
        self.study.set_user_attr("baseline", value)

    def trials(self) -> tuple[Trial, ...]:
        """Finished trials in order; a trial that a killed process left running is not among them."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return tuple(_thaw(trial) for trial in frozen if "assignment" in trial.user_attrs)

    def begin(self) -> optuna.Trial:
        """Reserve the next trial."""
        with _quiet_optuna():
            return self.study.ask()

    def finish(self, reserved: optuna.Trial, trial: Trial) -> None:
        """Record a trial's end; what is stored survives whatever happens next."""
        for key, value in trial.attributes().items():
            reserved.set_user_attr(key, value)
        with _quiet_optuna():
            if trial.state == "complete":
                self.study.tell(reserved, trial.score)
            else:
                self.study.tell(reserved, state=TrialState.FAIL)


def _thaw(frozen: FrozenTrial) -> Trial:
    attributes = dict(frozen.user_attrs)
    complete = frozen.state == TrialState.COMPLETE
    return Trial(
        number=frozen.number,
        assignment=Assignment.from_dict(attributes["assignment"]),
        label=attributes["label"],
        state="complete" if complete else "failed",
        score=frozen.value if complete else None,
        met=attributes["met"],
        error=attributes["error"],
        interrupted=attributes["interrupted"],
        seconds=attributes["seconds"],
        speedup=attributes["speedup"],
    )


@contextmanager
def _storage_errors(storage: str | None) -> Iterator[None]:
    """Whatever a database driver raises, as an error that names the argument."""
    try:
        yield
    except Exception as error:
        if storage is None:
            raise
        raise ArgumentError(
            f"storage={storage!r}: cannot be opened: {error}. Give an Optuna storage URL such as "
            "'sqlite:///run.db', or None to keep the trials in memory."
        ) from error


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna logs each trial to stderr; the tuner reports in its own words."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
