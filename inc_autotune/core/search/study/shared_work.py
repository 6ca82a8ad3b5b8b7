"""Work that processes with one storage do once between them, and find again after a crash."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState

from inc_autotune.core.search.study.running_trial import Description, begin_trial, end_trial
from inc_autotune.core.search.study.text_attributes import read_text, write_text
from inc_autotune.core.search.study.workers import POLL_SECONDS, Worker

CLAIM, OWNER = "claim", "worker"


class SharedWork:
    """Values by key: computed by one worker, read by the others.

    Args:
        study: where values and claims are kept; a claim is a trial of it.
        worker: this process; None where there are no others, and values are only remembered.
    """

    def __init__(self, study: optuna.Study, worker: Worker | None) -> None:
        self._study = study
        self._worker = worker
        self._values: dict[str, Any] = {}

    @property
    def index(self) -> int:
        """How many workers were there before this one."""
        return 0 if self._worker is None else self._worker.index

    def get(self, key: str) -> Any:
        """The value of `key`; None if no worker has stored one yet."""
        if key not in self._values and self._worker is not None:
            text = read_text(self._study.user_attrs, key)
            if text is not None:
                self._values[key] = json.loads(text)
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value, not None, that JSON can hold."""
        self._values[key] = value
        if self._worker is not None:
            write_text(self._study, key, json.dumps(value))

    def is_claimed(self, key: str) -> bool:
        """Whether another worker is about to compute the value of `key`."""
        return self._worker is not None and _is_taken(self._study, self._worker, key, math.inf)

    def once(self, key: str, compute: Callable[[], Any], keep: Callable[[], bool] = lambda: True) -> Any:
        """The value of `key`, computed here unless another worker has done so or is about to.

        Args:
            compute: gives a value, not None, that JSON can hold. If it raises, another worker may try.
            keep: asked after `compute`, whether the value is good for others and for later runs.
        """
        while (value := self.get(key)) is None:
            claimed = None
            if self._worker is not None:
                claimed = claim(self._study, self._worker, key)
                if claimed is None:
                    time.sleep(POLL_SECONDS)
                    continue
            try:
                # Another worker may have finished between the look and the claim.
                if self.get(key) is None:
                    value = compute()
                    if not keep():
                        return value
                    self.put(key, value)
            finally:
                if claimed is not None:
                    end_trial(self._study, claimed, TrialState.FAIL)
        return value


def claim(study: optuna.Study, worker: Worker, key: str, description: Description | None = None) -> Any:
    """Claim `key`: begin a trial of `study` that stands for it, unless a living worker has begun one.

    Trials are numbered one after the other, so if several workers claim a key at the same time, the lowest number wins.

    Args:
        description: to be stored with the trial.

    Returns:
        The Optuna trial, which the caller ends; None if another worker has the key.
    """
    if _is_taken(study, worker, key, math.inf):
        return None
    described = description or Description({})
    mine = begin_trial(study, replace(described, shown={**described.shown, OWNER: worker.id, CLAIM: key}))
    if not _is_taken(study, worker, key, mine.number):
        return mine
    end_trial(study, mine, TrialState.PRUNED)
    return None


def _is_taken(study: optuna.Study, worker: Worker, key: str, number: float) -> bool:
    """Whether a living worker has a running trial for `key` with a lower number."""
    return any(
        trial.number < number and trial.user_attrs.get(CLAIM) == key and worker.is_alive(trial.user_attrs[OWNER])
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    )
