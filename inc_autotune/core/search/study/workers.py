"""Which processes work on a study, and whether they still live."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import optuna

from inc_autotune.core.errors import StorageError
from inc_autotune.core.search.study.process import Process, is_gone, is_neighbour, this_process

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Between two looks at what other workers have done."""

HEARTBEAT_INTERVAL = 5.0
"""Seconds."""

HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a heartbeat after which a worker is dead. Heartbeats are counted, so clocks need not agree."""

NEIGHBOUR_TIMEOUT = 15.0
"""The same for another container on this machine: both have one clock, so the age of a heartbeat is known at once."""

WARN_AFTER = 7.0
"""Seconds without a heartbeat after which the user is told what is waited for; longer than the interval."""

_PREFIX = "worker "
_HERE: set[str] = set()
"""Ids of the workers of this very process."""


class Worker:
    """This process (one call of `autotune`) among those that share a study.

    The worker registers itself in the study's attributes, where a thread counts up its heartbeats. When its process is
    killed the count stands still; other processes on the same machine see at once that the process has ended.

    Args:
        study: where workers register.
        heartbeat_interval: seconds between two heartbeats.
        heartbeat_timeout: seconds without one after which a worker is dead.
        neighbour_timeout: the same for another container on this machine.
        clock: gives seconds; of this machine, not of this process.
        back_since: when the storage came back after it was away, by the clock: while it was, no heartbeat could be
            written, so nobody is silent for longer than that.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        neighbour_timeout: float = NEIGHBOUR_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        back_since: Callable[[], float] = lambda: float("-inf"),
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        _HERE.add(self.id)
        self._study = study
        self._timeout, self._neighbour_timeout = heartbeat_timeout, neighbour_timeout
        self._clock, self._back_since = clock, back_since
        self._process = this_process()
        self._last_heartbeats: dict[str, tuple[int, float]] = {}
        """By worker: the count that was read last, and when this count was read first."""
        self._warned_of: set[str] = set()
        self._closed = threading.Event()
        self.index = self._count(self._registered())
        """How many others were at work when this one came: shared work can be divided by it."""
        self._write_heartbeat(1)
        self._thread = threading.Thread(target=self._keep_beating, args=(heartbeat_interval,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the study; what this worker had begun and not finished is free for others."""
        self._closed.set()
        self._thread.join()
        _HERE.discard(self.id)
        try:
            self._write_heartbeat(0)
        except StorageError:
            # What was found must not be lost for that; others notice that the heartbeats have ended.
            logger.warning("the storage was not told that this process leaves", exc_info=True)

    def is_alive(self, worker: str) -> bool:
        """Whether a worker, by its id, is still at work as far as this one can tell."""
        return worker == self.id or self._is_alive(worker, self._registered().get(worker))

    def count_alive(self) -> int:
        """Workers of this study, this one included."""
        return self._count(self._registered())

    def _count(self, registered: dict[str, dict[str, Any]]) -> int:
        return sum(worker == self.id or self._is_alive(worker, entry) for worker, entry in registered.items())

    def _is_alive(self, worker: str, entry: dict[str, Any] | None) -> bool:
        if entry is None or entry["heartbeat"] == 0:
            return False
        process = Process(**entry["process"])
        if worker not in _HERE and is_gone(process):
            return False
        silent, timeout = self._seconds_since_heartbeat(worker, entry["heartbeat"]), self._timeout
        if is_neighbour(process):
            silent, timeout = max(silent, self._seconds_since(entry["time"])), self._neighbour_timeout
        if WARN_AFTER <= silent < timeout and worker not in self._warned_of:
            self._warned_of.add(worker)
            logger.warning(
                "process %d on %s shares this tuning run and has given no sign of life for %.0f s; what it has begun "
                "is done here if it stays silent for %.0f s more",
                process.number,
                process.host,
                silent,
                timeout - silent,
            )
        return silent < timeout

    def _seconds_since_heartbeat(self, worker: str, count: int) -> float:
        """Since this process first read the worker's present count."""
        now = self._clock()
        last_count, since = self._last_heartbeats.get(worker, (None, now))
        if last_count != count:
            since = now
            self._last_heartbeats[worker] = (count, since)
        return self._seconds_since(since)

    def _seconds_since(self, moment: float) -> float:
        return self._clock() - max(moment, self._back_since())

    def _registered(self) -> dict[str, dict[str, Any]]:
        return registered_workers(self._study.user_attrs)

    def _write_heartbeat(self, count: int) -> None:
        entry = {"process": asdict(self._process), "heartbeat": count, "time": self._clock()}
        self._study.set_user_attr(_PREFIX + self.id, entry)

    def _keep_beating(self, interval: float) -> None:
        count = 1
        while not self._closed.wait(interval):
            count += 1
            try:
                self._write_heartbeat(count)
            except Exception:
                # A database that is away for a moment must not end the evaluation; the next heartbeat tries again.
                logger.warning("the storage did not take a heartbeat", exc_info=True)


def registered_workers(attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What workers say of themselves, by their ids, from the attributes of the study where they register."""
    return {name.removeprefix(_PREFIX): entry for name, entry in attributes.items() if name.startswith(_PREFIX)}
