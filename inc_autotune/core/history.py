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
from inc_autotune.core.evaluation import Scores, Verdict
from inc_autotune.core.space import Assignment

logger = logging.getLogger(__name__)

LARGEST_BASELINE = 4 << 20
"""Characters of the fp32 model's per-sample scores that are kept in the study."""


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
        verdict: `pass`, `fail` or `undecided`, from a paired test where the evaluation gave per-sample scores.
        interval: confidence interval of the loss against fp32, in the score's unit; None for a plain number.
        samples: number of per-sample scores compared.
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
    verdict: Verdict | None = None
    interval: tuple[float, float] | None = None
    samples: int | None = None

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
            "verdict": self.verdict,
            "interval": self.interval,
            "samples": self.samples,
        }


def check_storage(storage: str | None) -> None:
    """Open a storage once, before a long run depends on it.

    Raises:
        ArgumentError: it cannot be opened.
    """
    if storage is not None:
        with _storage_errors(storage), quiet_optuna():
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
        with _storage_errors(storage), quiet_optuna():
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
    def baseline(self) -> Scores | None:
        """The fp32 model's scores, once known."""
        stored = self.study.user_attrs
        if "baseline" not in stored:
            return None
        texts = [stored[f"baseline_samples_{index}"] for index in range(stored.get("baseline_parts", 0))]
        return Scores.decode(float(stored["baseline"]), texts)

    @baseline.setter
    def baseline(self, scores: Scores) -> None:
        texts = scores.encode()
        if sum(map(len, texts)) > LARGEST_BASELINE:
            logger.info("the baseline's %d samples are not stored: a resumed run gives no interval", len(texts))
            texts = []
        for index, text in enumerate(texts):
            self.study.set_user_attr(f"baseline_samples_{index}", text)
        self.study.set_user_attr("baseline_parts", len(texts))
        # Last, so that a run killed in between evaluates again instead of losing the pairing.
        self.study.set_user_attr("baseline", scores.mean)

    def trials(self) -> tuple[Trial, ...]:
        """Finished trials in order; a trial that a killed process left running is not among them."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return tuple(_thaw(trial) for trial in frozen if "assignment" in trial.user_attrs)

    def begin(self) -> optuna.Trial:
        """Reserve the next trial."""
        with quiet_optuna():
            return self.study.ask()

    def finish(self, reserved: optuna.Trial, trial: Trial) -> None:
        """Record a trial's end; what is stored survives whatever happens next."""
        for key, value in trial.attributes().items():
            reserved.set_user_attr(key, value)
        with quiet_optuna():
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
        verdict=attributes["verdict"],
        interval=None if attributes["interval"] is None else tuple(attributes["interval"]),
        samples=attributes["samples"],
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
def quiet_optuna() -> Iterator[None]:
    """Optuna logs each trial to stderr; the tuner reports in its own words."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
