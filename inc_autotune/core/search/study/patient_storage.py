"""A storage that waits for a database which is away for a while."""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from inc_autotune.core.errors import StorageError
from inc_autotune.core.search.study.storage_url import holds_secrets, without_secrets

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds to wait for a database that was there before: longer than a restart, or a switch to its replica, takes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between attempts, doubled after each."""

TOKEN = "token"
"""Attribute by which a trial is known before its number is."""


class _Patient:
    """Calls of another storage, each repeated while its database cannot be reached.

    What is written twice because only the answer was lost stands there once: a trial is looked for by its `TOKEN`, and
    one that has ended as asked counts as ended by this call.

    Args:
        storage: as Optuna opened it.
        url: named in messages, without its secrets.
        patience: seconds after which a database that stays away is an error; 0: at once.
        clock: gives seconds.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        storage: BaseStorage,
        url: str,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.back_since = float("-inf")
        """When the database came back after it was away, by the clock: what is older says nothing of other workers."""
        self._storage, self._url, self._patience = storage, url, patience
        self._clock, self._sleep = clock, sleep
        self._gave_up = False
        self._is_announced = threading.Lock()

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        """A method of the storage, by name.

        Raises:
            StorageError: the database does not answer, or refuses. What was written before is there.
        """
        call, pause, away_since = getattr(self._storage, name), FIRST_PAUSE, None
        while True:
            try:
                found = call(*given, **named)
                break
            except UpdateFinishedTrialError:
                if away_since is None or not self._has_ended_so(name, *given, **named):
                    raise
                found = True
                break
            except Exception as error:
                if not _is_trouble(error):
                    raise
                now = self._clock()
                away_since = now if away_since is None else away_since
                if self._gave_up or not _may_pass(error) or now - away_since >= self._patience:
                    self._gave_up = True
                    raise self._error(error, now - away_since) from (None if holds_secrets(error, self._url) else error)
                self._announce(error)
            self._wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            call = self._again(name, call)
        if away_since is not None:
            self.back_since = self._clock()
            if self._is_announced.locked():
                self._is_announced.release()
                logger.warning("storage: the database is back after %.1f s", self.back_since - away_since)
        return found

    def _wait(self, seconds: float) -> None:
        try:
            self._sleep(random.Random().uniform(0.5, 1.0) * seconds)
        except BaseException:
            # Who interrupts this wait does not want the next one either.
            self._gave_up = True
            raise

    def _announce(self, error: Exception) -> None:
        if self._is_announced.acquire(blocking=False):
            message = _words(error, self._url)
            logger.warning(
                "storage: the database cannot be reached, for %.0f s at most it is tried again: %s",
                self._patience,
                message,
            )

    def _error(self, error: Exception, seconds: float) -> StorageError:
        after = f" for {seconds:.0f} s" if seconds else ""
        message = _words(error, self._url)
        return StorageError(
            f"storage: the database failed{after}: {message}. The trials that had ended are stored: once it works "
            "again, make the same call, and it goes on from there."
        )

    def _again(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """What to call after a failure of which it is not known whether the database had done its part."""
        if name != "create_new_trial":
            return call

        def create_or_find(study_id: int, template_trial: FrozenTrial | None = None) -> int:
            token = None if template_trial is None else template_trial.user_attrs.get(TOKEN)
            if token is not None:
                for trial in self._storage.get_all_trials(study_id, deepcopy=False):
                    if trial.user_attrs.get(TOKEN) == token:
                        return int(trial._trial_id)
            return int(self._storage.create_new_trial(study_id, template_trial))

        return create_or_find

    def _has_ended_so(self, name: str, *given: Any, **named: Any) -> bool:
        """Whether a trial that has ended meanwhile ended as this call asks."""
        if name != "set_trial_state_values":
            return False

        def asked(trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
            trial = self._storage.get_trial(trial_id)
            return trial.state == state and (values is None or list(trial.values or ()) == list(values))

        return asked(*given, **named)


def _patiently(name: str) -> Callable[..., Any]:
    def call(self: _Patient, *given: Any, **named: Any) -> Any:
        return self._call(name, *given, **named)

    call.__name__ = name
    return call


PatientStorage: Any = type(
    "PatientStorage",
    (_Patient, BaseStorage),
    {name: _patiently(name) for name in sorted(BaseStorage.__abstractmethods__)} | {"__doc__": _Patient.__doc__},
)
"""The class: Optuna's other methods are made of these."""


def _is_trouble(error: Exception) -> bool:
    """Whether the database failed, rather than that it was asked for what it does not have."""
    from sqlalchemy.exc import SQLAlchemyError  # loaded by Optuna where a database is used, and slow to load

    return isinstance(error, (StorageInternalError, SQLAlchemyError, OSError)) or _is_of_proxy(error)


def _may_pass(error: BaseException | None) -> bool:
    """Whether the same call may succeed later, which errors of a broken connection do not say in one way."""
    from sqlalchemy.exc import DataError, IntegrityError, NotSupportedError, ProgrammingError

    while error is not None:
        if isinstance(error, (DataError, IntegrityError, NotSupportedError, ProgrammingError)):
            return False
        error = error.__cause__
    return True


def _is_of_proxy(error: BaseException) -> bool:
    """Whether Optuna's gRPC proxy, or the way to it, failed."""
    grpc = sys.modules.get("grpc")  # no proxy is used where it was never imported
    return grpc is not None and isinstance(error, grpc.RpcError)


def _words(error: BaseException, url: str) -> str:
    """What the database's driver said, in one line, without the secrets of its URL."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = getattr(error, "orig", None) or error
    return without_secrets(" ".join(str(said).split()), url)
