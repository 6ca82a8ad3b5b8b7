"""Which processes work on a study, and whether they still live."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import optuna

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""A worker whose beat stands still for so long is dead. Beats are counted, so clocks need not agree."""

_PREFIX = "worker "


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._study = study
        self._silence = silence_seconds
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self.index = sum(self.is_alive(other) for other in self._registered())
        """How many others were at work when this one came: they divide what can be divided by it."""
        self._beat(1)
        self._thread = threading.Thread(target=self._keep_beating, args=(beat_seconds,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the study; what this worker had begun and not finished is free for others."""
        self._ended.set()
        self._thread.join()
        self._beat(0)

    def is_alive(self, worker: str) -> bool:
        """Whether a worker, by its id, is still at work as far as this one can tell."""
        if worker == self.id:
            return True
        entry = self._registered().get(worker)
        if entry is None or entry["beat"] == 0 or _is_gone(entry):
            return False
        beat, since = self._seen.get(worker, (-1, 0.0))
        if beat != entry["beat"]:
            self._seen[worker] = (entry["beat"], self._clock())
            return True
        return self._clock() - since < self._silence

    def count_alive(self) -> int:
        """Workers of this study, this one included."""
        return sum(self.is_alive(worker) for worker in self._registered())

    def _registered(self) -> dict[str, dict[str, Any]]:
        attributes = self._study.user_attrs
        return {name.removeprefix(_PREFIX): each for name, each in attributes.items() if name.startswith(_PREFIX)}

    def _beat(self, count: int) -> None:
        entry = {"host": platform.node(), "process": os.getpid(), "beat": count}
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


def _is_gone(entry: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended."""
    # On Windows signal 0 would end the process that is asked about.
    if entry["host"] != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(entry["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
