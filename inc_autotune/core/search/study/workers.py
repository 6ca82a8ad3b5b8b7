"""Which processes work on a study, and whether they still live."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import optuna

from inc_autotune.core.search.study.process import Process, is_gone, is_neighbour, this_process

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""A worker whose beat stands still for so long is dead. Beats are counted, so clocks need not agree."""

NEAR_SILENCE_SECONDS = 15.0
"""The same for another container on this machine: the clock is one, so the age of a beat is known at first sight."""

DOUBT_SECONDS = 7.0
"""Longer than a beat: from then on the user may wonder what is waited for."""

_PREFIX = "worker "
_HERE: set[str] = set()
"""Ids of the workers of this very process."""


class Worker:
    """This process (one call of `autotune`) among those that share a study.

    It registers itself in the study's attributes, and a thread counts up its beat there. A process that is killed
    beats no more; on the same machine it is missed at once.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        beat_seconds: float = BEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        near_silence_seconds: float = NEAR_SILENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        _HERE.add(self.id)
        self._study = study
        self._silence, self._near_silence = silence_seconds, near_silence_seconds
        self._clock = clock
        self._process = this_process()
        self._seen: dict[str, tuple[int, float]] = {}
        self._doubted: set[str] = set()
        self._ended = threading.Event()
        self.index = self._count(self._registered())
        """How many others were at work when this one came: they divide what can be divided by it."""
        self._beat(1)
        self._thread = threading.Thread(target=self._keep_beating, args=(beat_seconds,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the study; what this worker had begun and not finished is free for others."""
        self._ended.set()
        self._thread.join()
        self._beat(0)
        _HERE.discard(self.id)

    def is_alive(self, worker: str) -> bool:
        """Whether a worker, by its id, is still at work as far as this one can tell."""
        return worker == self.id or self._is_alive(worker, self._registered().get(worker))

    def count_alive(self) -> int:
        """Workers of this study, this one included."""
        return self._count(self._registered())

    def _count(self, registered: dict[str, dict[str, Any]]) -> int:
        return sum(worker == self.id or self._is_alive(worker, entry) for worker, entry in registered.items())

    def _is_alive(self, worker: str, entry: dict[str, Any] | None) -> bool:
        if entry is None or entry["beat"] == 0:
            return False
        process = Process(**entry["process"])
        if worker not in _HERE and is_gone(process):
            return False
        beat, since = self._seen.get(worker, (-1, 0.0))
        if beat != entry["beat"]:
            since = self._clock()
            self._seen[worker] = (entry["beat"], since)
        silent = self._clock() - since
        left = self._silence - silent
        if is_neighbour(process):
            silent = max(silent, self._clock() - entry["time"])
            left = self._near_silence - silent
        if left > 0 and silent >= DOUBT_SECONDS and worker not in self._doubted:
            self._doubted.add(worker)
            logger.warning(
                "process %d on %s shares this tuning run and has given no sign of life for %.0f s; what it has begun "
                "is done here if it stays silent for %.0f s more",
                process.number,
                process.host,
                silent,
                left,
            )
        return left > 0

    def _registered(self) -> dict[str, dict[str, Any]]:
        attributes = self._study.user_attrs
        return {name.removeprefix(_PREFIX): each for name, each in attributes.items() if name.startswith(_PREFIX)}

    def _beat(self, count: int) -> None:
        entry = {"process": asdict(self._process), "beat": count, "time": self._clock()}
        self._study.set_user_attr(_PREFIX + self.id, entry)

    def _keep_beating(self, seconds: float) -> None:
        count = 1
        while not self._ended.wait(seconds):
            count += 1
            try:
                self._beat(count)
            except Exception:
                # A database that is away for a moment must not end the evaluation; the next beat tries again.
                logger.warning("the storage did not take a sign of life", exc_info=True)
