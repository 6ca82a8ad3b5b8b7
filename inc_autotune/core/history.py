"""The trials of a tuning run, kept in an Optuna study.

In memory by default. With a storage URL such as `sqlite:///run.db` the same call after a crash finds the trials it
already paid for, and several processes share them.
"""

from __future__ import annotations

import logging
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from inc_autotune.core.evaluation import Scores
from inc_autotune.core.shared_work import OWNER, SharedWork, claim
from inc_autotune.core.space import Assignment
from inc_autotune.core.study import StudyKey, create_study, open_study, quiet_optuna, read_text, write_text
from inc_autotune.core.trial import Trial
from inc_autotune.core.workers import Worker

logger = logging.getLogger(__name__)

LARGEST_BASELINE = 4 << 20
"""Characters of the fp32 model's per-sample scores that are kept in the study."""

_BASELINE, _SAMPLES = "baseline", "baseline samples"


class History:
    """The trials of one tuning run.

    Args:
        storage: an Optuna storage URL; None keeps the trials in memory.
        key: what decides the scores; equal keys share trials.
        higher_is_better: whether a higher score is better.

    Raises:
        ArgumentError: the storage cannot be opened.
    """

    def __init__(self, storage: str | None, key: StudyKey, *, higher_is_better: bool) -> None:
        opened = open_study(storage, key, higher_is_better=higher_is_better)
        self.study = opened.study
        self.note = opened.note
        self.worker: Worker | None = None
        shared = self.study
        if opened.storage is not None:
            shared = create_study(opened.storage, f"{key.study_name} shared work")
            self.worker = Worker(shared)
        self.work = SharedWork(shared, self.worker)
        if self.trials():
            logger.info("study %s: going on with %d trials", key.study_name, len(self.trials()))

    def close(self) -> None:
        """Leave the study to the other workers."""
        if self.worker is not None:
            self.worker.close()

    @property
    def workers(self) -> int:
        """Processes that work on this tuning run."""
        return 1 if self.worker is None else max(1, self.worker.count_alive())

    @property
    def baseline(self) -> Scores | None:
        """The fp32 model's scores, once known."""
        stored = self.study.user_attrs
        if _BASELINE not in stored:
            return None
        samples = read_text(stored, _SAMPLES)
        return Scores.decode(float(stored[_BASELINE]), samples or "")

    @baseline.setter
    def baseline(self, scores: Scores) -> None:
        text = scores.encode()
        if len(text) > LARGEST_BASELINE:
            logger.info("the baseline's samples are not stored: a resumed run gives no interval")
            text = ""
        write_text(self.study, _SAMPLES, text)
        # Last, so that a run killed in between evaluates again instead of losing the pairing.
        self.study.set_user_attr(_BASELINE, scores.mean)

    def trials(self) -> tuple[Trial, ...]:
        """Trials in order: the finished ones, and those that other living workers evaluate at this moment."""
        self._free_abandoned()
        found = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING))
        return tuple(
            _thaw(trial)
            for trial in found
            if "label" in trial.user_attrs and (trial.state != TrialState.RUNNING or not self._is_mine(trial))
        )

    def begin(self, assignment: Assignment, label: str) -> Any:
        """Reserve the next trial; None where another worker has begun, or even finished, the same meanwhile."""
        attributes = {"assignment": assignment.to_dict(), "label": label}
        if self.worker is None:
            with quiet_optuna():
                reserved = self.study.ask()
            for name, value in attributes.items():
                reserved.set_user_attr(name, value)
            return reserved
        claimed = claim(self.study, self.worker, assignment.digest, attributes)
        if claimed is not None and self._is_finished(assignment):
            with quiet_optuna():
                self.study.tell(claimed, state=TrialState.PRUNED)
            return None
        return claimed

    def _is_finished(self, assignment: Assignment) -> bool:
        ended = (trial for trial in self.trials() if trial.state != "running" and not trial.interrupted)
        return any(trial.assignment.digest == assignment.digest for trial in ended)

    def finish(self, reserved: Any, trial: Trial) -> None:
        """Record a trial's end; what is stored survives whatever happens next."""
        for name, value in trial.attributes().items():
            reserved.set_user_attr(name, value)
        with quiet_optuna():
            if trial.state == "complete":
                self.study.tell(reserved, trial.score)
            else:
                self.study.tell(reserved, state=TrialState.FAIL)

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return self.worker is None or trial.user_attrs.get(OWNER) == self.worker.id

    def _free_abandoned(self) -> None:
        """End the running trials of workers that died; they are tried again."""
        if self.worker is None:
            return
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            if owner is not None and not self.worker.is_alive(owner):
                with quiet_optuna():
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _thaw(frozen: FrozenTrial) -> Trial:
    attributes = dict(frozen.user_attrs)
    if frozen.state == TrialState.COMPLETE:
        return Trial.from_attributes(frozen.number, "complete", frozen.value, attributes)
    if frozen.state == TrialState.RUNNING:
        return Trial.from_attributes(frozen.number, "running", None, attributes)
    # A trial without an error did not end: its process was killed.
    if attributes.get("error") is None:
        attributes |= {"interrupted": True, "error": "its process ended before the evaluation did"}
    return Trial.from_attributes(frozen.number, "failed", None, attributes)
