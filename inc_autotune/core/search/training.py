"""Trainings of one tuning run: when a model is trained, from what, and where its weights stay."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import (
    NOTHING_CHANGED,
    TRAINED,
    SupportsTraining,
    TrainFunction,
    check_trainable,
    train,
)
from inc_autotune.core.arguments import TrainingArgs
from inc_autotune.core.evaluation import Goal
from inc_autotune.core.progress import Phases
from inc_autotune.core.search.study import TrainedWeights, Trial, WeightsStore, callable_fingerprint, joined
from inc_autotune.core.space import Assignment, TuningSpace

_MARK_LENGTH = 12


@dataclass(frozen=True)
class TrainedOutcome:
    """What the training of one assignment came to.

    Args:
        seconds: that `train_func` took; 0 where its weights were there already.
        start: number of the trial whose weights it started from; None: the fp32 model's.
        problem: why its model is of no use; None if it is.
    """

    seconds: float = 0.0
    start: int | None = None
    problem: str | None = None


class Trainings:
    """Trains models with the user's function, once for each configuration.

    Args:
        train_func: the user's; None: nothing is trained.
        settings: what else decides how models are trained.
        store: keeps what trainings come to.

    Attributes:
        mark: of assignments that this function trains: another function's trials are other trials.
        notes: for the user, about what `train_func` did.
    """

    def __init__(
        self,
        adaptor: Adaptor,
        model: Any,
        train_func: TrainFunction | None,
        settings: TrainingArgs,
        store: WeightsStore,
        phases: Phases,
    ) -> None:
        check_trainable(adaptor, train_func)
        self._adaptor, self._model, self._train_func, self._store = adaptor, model, train_func, store
        self._phases = phases
        self.mark = "" if train_func is None else _mark(train_func, settings)
        self.notes: list[str] = []

    def run(self, space: TuningSpace, assignment: Assignment, label: str, start: Trial | None = None) -> TrainedOutcome:
        """Train the model of an assignment, unless its weights are there.

        Args:
            start: a trained trial whose weights it starts from.

        Raises:
            TrainingError: `train_func` raised, or left a model that is not the one it was given.
        """
        assert self._train_func is not None
        assert isinstance(self._adaptor, SupportsTraining)
        key = _key(assignment)
        if self._store.get(key) is not None:
            return TrainedOutcome(start=None if start is None else start.number)
        unfinished = _key(replace(assignment, trained=None))  # a function that failed may have been mended since
        before = self._store.get_interrupted(unfinished)
        if before is not None:
            self._note(f"training of {label!r}: went on from what an interrupted one had left")
        elif start is not None:
            before = self._store.get(_key(start.assignment))
        tune_cfg = space.tune_cfg(assignment)
        if before is not None:
            tune_cfg[TRAINED] = before.arrays
        started = time.monotonic()
        with self._phases.phase("training"):
            training = train(
                self._adaptor,
                tune_cfg,
                self._model,
                self._train_func,
                lambda arrays: self._store.keep_interrupted(
                    unfinished, joined(TrainedWeights(arrays, (), label), before)
                ),
            )
        outcome = TrainedOutcome(time.monotonic() - started, None if start is None else start.number)
        for note in training.notes:
            self._note(note)
        if training.problem is not None and not (training.problem == NOTHING_CHANGED and before is not None):
            self._note(f"training of {label!r}: {training.problem}")
            return replace(outcome, problem=training.problem)
        self._store.keep(key, joined(TrainedWeights(training.arrays, training.operators, label), before))
        self._store.drop_interrupted(unfinished)
        return outcome

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def start_of(self, goal: Goal, trials: Sequence[Trial]) -> Trial | None:
        """The trained trial with the best score, from whose weights the next training starts; None if there is none."""
        mine = (trial for trial in trials if trial.assignment.trained == self.mark)
        scored = [(trial, trial.score) for trial in mine if trial.score is not None]
        best = min(scored, key=lambda pair: (goal.loss(pair[1]), pair[0].number), default=None)
        return None if best is None else best[0]

    def tune_cfg(self, space: TuningSpace, assignment: Assignment) -> dict[str, Any]:
        """The adaptor's form of an assignment, with its trained weights where it has some.

        Raises:
            QuantizationError: the weights are gone.
        """
        tune_cfg = space.tune_cfg(assignment)
        if assignment.trained:
            tune_cfg[TRAINED] = self._store.require(_key(assignment)).arrays
        return tune_cfg

    def operators(self, assignment: Assignment) -> tuple[str, ...]:
        """Names of the operators of an assignment's model that were trained."""
        return self._store.require(_key(assignment)).operators if assignment.trained else ()

    def file(self, assignment: Assignment) -> Path | None:
        """Where the trained weights of an assignment stay; None in memory, and for one that is not trained."""
        return self._store.path(_key(assignment)) if assignment.trained else None


def _key(assignment: Assignment) -> str:
    """Of the weights: another way to write the same model has the same ones."""
    return replace(assignment, variant=None).digest


def _mark(train_func: TrainFunction, settings: TrainingArgs) -> str:
    text = callable_fingerprint(train_func) + settings.model_dump_json(exclude={"folder"})
    return hashlib.sha256(text.encode()).hexdigest()[:_MARK_LENGTH]
