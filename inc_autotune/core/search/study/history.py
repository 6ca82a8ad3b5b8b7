"""The trials of a tuning run, kept in an Optuna study.

In memory by default. With a storage URL such as `sqlite:///run.db` the same call after a crash finds the finished
trials again, and several processes share them.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from inc_autotune.core.errors import EvaluationError, StorageError
from inc_autotune.core.evaluation import Scores
from inc_autotune.core.run_context import run_context
from inc_autotune.core.search.study.running_trial import Description, begin_trial, end_trial
from inc_autotune.core.search.study.shared_work import OWNER, SharedWork, claim
from inc_autotune.core.search.study.storage import StudyKey, create_study, open_study
from inc_autotune.core.search.study.text_attributes import read_text, write_text
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.search.study.workers import Worker
from inc_autotune.core.space import Assignment

logger = logging.getLogger(__name__)

LARGEST_BASELINE = 4 << 20
"""Characters of the fp32 model's per-sample scores that are kept in the study."""

BASELINE, _SAMPLES, _CUT = "baseline", "baseline samples", "baseline is cut"
SHARED_WORK = " shared work"
"""Ends the name of the study beside that of a run, where its workers register."""

ORIGIN, GOAL, RESULT = "origin", "goal", "result"
"""Attributes of a study: what started the run, what is asked of a score, and how the run ended."""

_ASSIGNMENT, _OUTCOME = "inc_autotune:assignment", "inc_autotune:outcome"
"""Hidden attributes of a trial. Viewers of studies show the others in one line each, which these would make endless."""

_LABEL, _GAIN, _UNITS, _CAME_TO = "tried", "gain", "units", "came to"


class History:
    """The trials of one tuning run.

    Args:
        storage: an Optuna storage URL; None keeps the trials in memory.
        key: what decides the scores; equal keys share trials.
        higher_is_better: whether a higher score is better.

    Raises:
        ArgumentError: the storage cannot be opened, or the study is not the one that `RunContext` names.
    """

    def __init__(self, storage: str | None, key: StudyKey, *, higher_is_better: bool) -> None:
        context = run_context()
        opened = open_study(storage, key, higher_is_better=higher_is_better, expected=context.study_name)
        self.study = opened.study
        self.notes: tuple[str, ...] = () if opened.note is None else (opened.note,)
        self.worker: Worker | None = None
        self._ended: dict[int, Trial] = {}
        self._recorded: set[int] = set()
        shared = self.study
        if opened.storage is not None:
            shared = create_study(opened.storage, key.study_name + SHARED_WORK)
            self.worker = Worker(shared, back_since=lambda: float(opened.storage.back_since))
            if context.origin is not None and ORIGIN not in self.study.user_attrs:
                write_text(self.study, ORIGIN, json.dumps(context.origin))
        self.work = SharedWork(shared, self.worker)
        found = sum(trial.state != "running" for trial in self.trials())
        if found:
            self.notes += (f"storage: went on with {found} trials of study {key.study_name!r} from before this call",)
            logger.info("study %s: going on with %d trials", key.study_name, found)

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
        return baseline_of(stored) if BASELINE in stored else None

    @baseline.setter
    def baseline(self, scores: Scores) -> None:
        text = scores.encode()
        if len(text) > LARGEST_BASELINE:
            if scores.is_cut:
                raise EvaluationError(
                    "eval_func was still yielding scores of the fp32 model when tuning_time was over, and they are too "
                    "many to be kept. It must end: score each sample once; or give more time."
                )
            logger.info("the baseline's samples are not stored: a resumed run gives no interval")
            text = ""
        write_text(self.study, _SAMPLES, text)
        if scores.is_cut:
            self.study.set_user_attr(_CUT, True)
        # Last, so that a run killed in between evaluates again instead of losing the pairing.
        self.study.set_user_attr(BASELINE, scores.mean)

    def keep_goal(self, goal: Mapping[str, Any]) -> None:
        """Keep what is asked of a score, in plain values, for those who read the study."""
        if self.worker is not None and GOAL not in self.study.user_attrs:
            self.study.set_user_attr(GOAL, dict(goal))

    def keep_result(self, result: Mapping[str, Any]) -> None:
        """Keep how the run ended, in plain values; of several processes that end, the last one's stands."""
        if self.worker is not None:
            # Under a name of its own, since the parts of two texts that are written at once would be mixed.
            name = f"{RESULT} {self.worker.id}"
            try:
                write_text(self.study, name, json.dumps(result))
                self.study.set_user_attr(RESULT, name)
            except StorageError:
                # What was found must not be lost for that.
                logger.warning("the storage did not take the result of the run", exc_info=True)

    def trials(self) -> tuple[Trial, ...]:
        """Trials in order: the finished ones, and the ones that other living workers evaluate at this moment."""
        found = self._read()
        if self._free_abandoned(found):
            found = self._read()
        return tuple(self._thaw(trial) for trial in found if trial.state.is_finished() or not self._is_mine(trial))

    def _thaw(self, frozen: FrozenTrial) -> Trial:
        """The trial as the strategies know it; ended trials are kept, since their assignments cache a digest."""
        if not frozen.state.is_finished():
            return thaw(frozen)
        if frozen.number not in self._ended:
            self._ended[frozen.number] = thaw(frozen)
        return self._ended[frozen.number]

    def _read(self) -> list[FrozenTrial]:
        states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        return list(filter(is_ours, self.study.get_trials(deepcopy=False, states=states)))

    def begin(self, assignment: Assignment, label: str) -> Any:
        """Reserve the next trial; None if another worker has begun or finished the same assignment meanwhile."""
        description = _description(assignment, label)
        if self.worker is None:
            return begin_trial(self.study, description)
        claimed = claim(self.study, self.worker, assignment.digest, description)
        if claimed is not None and self._is_finished(assignment):
            end_trial(self.study, claimed, TrialState.PRUNED)
            return None
        return claimed

    def _is_finished(self, assignment: Assignment) -> bool:
        ended = (trial for trial in self.trials() if trial.state != "running" and not trial.interrupted)
        return any(trial.assignment.digest == assignment.digest for trial in ended)

    def record(self, reserved: Any, trial: Trial) -> Any:
        """Store the outcome of an evaluation, in one transaction, so that it survives whatever happens next.

        To the other workers the trial still runs, until `finish`.

        Returns:
            The reserved trial, for `finish`; a new trial if other workers took this one for dead and gave the reserved
            trial up.
        """
        try:
            self.study._storage.set_trial_system_attr(reserved._trial_id, _OUTCOME, trial.outcome())
        except optuna.exceptions.UpdateFinishedTrialError:
            logger.warning("trial %d was given up by another process; it is recorded anew", trial.number + 1)
            description = _description(trial.assignment, trial.label)
            owner = {} if self.worker is None else {OWNER: self.worker.id}
            reserved = begin_trial(
                self.study,
                replace(
                    description,
                    shown={**description.shown, **owner},
                    hidden={**description.hidden, _OUTCOME: trial.outcome()},
                ),
            )
        self._recorded.add(reserved.number)
        return reserved

    def finish(self, reserved: Any, trial: Trial) -> Trial:
        """End a trial, and record it first if that is not done.

        Returns:
            The trial as it is stored: with its number, and without a gain if other workers had given the trial up.
        """
        if reserved.number not in self._recorded:
            reserved = self.record(reserved, trial)
        trial = replace(trial, number=reserved.number)
        try:
            if trial.gain is not None:
                reserved.set_user_attr(_GAIN, trial.gain)
            reserved.set_user_attr(
                _CAME_TO, trial.error or f"{'met' if trial.met else 'not met'}, {trial.seconds:.3g} s"
            )
        except optuna.exceptions.UpdateFinishedTrialError:
            trial = replace(trial, gain=None)
        self._tell(trial.number, trial.score)
        return trial

    def _tell(self, number: int, score: float | None) -> None:
        """End a trial by its score; None: it failed."""
        end_trial(self.study, number, TrialState.FAIL if score is None else TrialState.COMPLETE, score)

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return self.worker is None or trial.user_attrs.get(OWNER) == self.worker.id

    def _free_abandoned(self, found: list[FrozenTrial]) -> bool:
        """End the running trials of dead workers; the ones without an outcome will be tried again."""
        if self.worker is None:
            return False
        running = [trial for trial in found if trial.state == TrialState.RUNNING]
        abandoned = [trial for trial in running if not self.worker.is_alive(trial.user_attrs[OWNER])]
        for trial in abandoned:
            self._tell(trial.number, trial.system_attrs.get(_OUTCOME, {}).get("score"))
        return bool(abandoned)


def _description(assignment: Assignment, label: str) -> Description:
    """What a trial of an assignment carries from its beginning."""
    forms = Counter(f"{each.dtype} {each.approach or ''}".strip() for each in assignment.by_unit.values())
    units = ", ".join(f"{count} {form}" for form, count in forms.most_common())
    return Description(
        {_LABEL: label, _UNITS: units},
        {_ASSIGNMENT: assignment.to_dict()},
        (forms["fp32"], len(assignment.by_unit)),
    )


def is_ours(frozen: FrozenTrial) -> bool:
    """Whether an Optuna trial is one that `History.begin` made."""
    return _LABEL in frozen.user_attrs and _ASSIGNMENT in frozen.system_attrs


def baseline_of(attributes: Mapping[str, Any]) -> Scores:
    """The fp32 model's scores, from the attributes of a study that has them."""
    samples = read_text(attributes, _SAMPLES)
    return Scores.decode(float(attributes[BASELINE]), samples or "", is_cut=bool(attributes.get(_CUT)))


def ended(frozen: FrozenTrial) -> Trial:
    """A trial that has ended, or whose process has: its outcome, or that there is none."""
    return _begun(frozen).ended(frozen.system_attrs.get(_OUTCOME, _KILLED), frozen.user_attrs.get(_GAIN))


def thaw(frozen: FrozenTrial) -> Trial:
    """An Optuna trial as the strategies know it."""
    return ended(frozen) if frozen.state.is_finished() else _begun(frozen)


def _begun(frozen: FrozenTrial) -> Trial:
    assignment = Assignment.from_dict(frozen.system_attrs[_ASSIGNMENT])
    return Trial(frozen.number, assignment, frozen.user_attrs[_LABEL], "running")


_KILLED = {"interrupted": True, "error": "its process ended before the evaluation did"}
"""The outcome of a trial that has none."""
