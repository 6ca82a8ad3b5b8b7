"""Optuna studies, found again by a hash of everything that decides a score."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import random
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import optuna

from inc_autotune.core.errors import ArgumentError, MissingDependencyError
from inc_autotune.core.search.study.patient_storage import PATIENCE, PatientStorage
from inc_autotune.core.search.study.quiet import quiet_optuna
from inc_autotune.core.search.study.storage_url import holds_secrets, local_file, shown_url, without_secrets

logger = logging.getLogger(__name__)

STORAGE_FORMAT = 3
"""Part of every study's key, and raised where studies hold other names or values than before: a study of an earlier
format is left alone."""

KEY = "decided by"
OPENING_ATTEMPTS = 20
CROWD_PATIENCE = 120.0
"""Seconds to wait for a connection while many workers open the storage at once, each with more than it will keep."""
SQLITE_PATIENCE = 60.0
"""Seconds to wait for another process's write."""

TIME_LIMITS: Mapping[str, Mapping[str, float]] = {
    "sqlite": {"timeout": SQLITE_PATIENCE},
    "postgresql": {  # libpq's, thus of psycopg and psycopg2; the last is in milliseconds
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    },
    "mysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
    "mariadb": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
}
"""What drivers call their limits, by database."""

KNOWN_DRIVERS = ("", "pysqlite", "psycopg", "psycopg2", "pymysql", "mysqldb")
"""Those that know these names, and none: the usual one of its database."""

GRPC = "grpc://"
GRPC_PATIENCE = 10.0
"""Seconds to wait for a proxy. Optuna's client would wait for ever, and say nothing."""


@dataclass(frozen=True)
class StudyKey:
    """What decides the scores of a tuning run, part by part.

    Args:
        prefix: the user's name for the study, or ours.
        parts: content by name, such as `{"model": "...", "seed": 0}`, as JSON can hold it (or by its `str`).
    """

    prefix: str
    parts: Mapping[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        return {name: _digest(content) for name, content in self.parts.items()}

    @property
    def study_name(self) -> str:
        """The prefix and a hash of the content; the prefix alone if no content is known (the study lives in memory)."""
        return f"{self.prefix}-{_digest(self.digests)}" if self.parts else self.prefix


@dataclass(frozen=True)
class OpenedStudy:
    """A study that was found or created.

    Args:
        storage: the Optuna storage that holds the study; None for memory.
        note: for the user, if the study is new although the storage has studies with the same prefix: in what it
            differs from the most similar one.
    """

    study: optuna.Study
    storage: Any
    note: str | None = None


def open_study(
    storage: str | None, key: StudyKey, *, higher_is_better: bool, expected: str | None = None
) -> OpenedStudy:
    """Open or create the study of `key`.

    Args:
        expected: name of the study that `key` has to stand for; None: any.

    Raises:
        ArgumentError: the storage cannot be opened, or the study is not the expected one.
        MissingDependencyError: its driver is not installed.
    """
    with storage_errors(storage), quiet_optuna():
        opened = _patient(storage)
        others = [] if opened is None else optuna.get_all_study_summaries(opened)
    if expected is not None and key.study_name != expected:
        raise _another_study(key, expected, others)
    with storage_errors(storage), quiet_optuna():
        study = create_study(opened, key.study_name, higher_is_better=higher_is_better)
        known = any(other.study_name == key.study_name for other in others)
        if not known:
            study.set_user_attr(KEY, key.digests)
            study.set_metric_names(["score"])
    note = None if known else _difference(key, others)
    if note is not None:
        logger.warning("%s", note)
    return OpenedStudy(study, opened, note)


def create_study(storage: Any, name: str, *, higher_is_better: bool = True) -> optuna.Study:
    """The study of this name; the first process that asks creates it."""
    with quiet_optuna():
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if higher_is_better else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )


def check_storage(storage: str | None) -> None:
    """Open a storage once, before a long run depends on it.

    Raises:
        ArgumentError: it cannot be opened.
        MissingDependencyError: its driver is not installed.
    """
    with storage_errors(storage), quiet_optuna():
        _storage(storage)


def open_existing(storage: str) -> Any:
    """A storage to read, which has to be there: no file, table or study is made.

    Raises:
        ArgumentError: it cannot be opened, or holds no studies of Optuna.
        MissingDependencyError: its driver is not installed.
    """
    file = local_file(storage)
    if file is not None and not file.is_file():
        raise ArgumentError(f"storage={shown_url(storage)!r}: there is no file {str(file)!r}.")
    with storage_errors(storage), quiet_optuna():
        has_studies = storage.startswith(GRPC) or {"studies", "trials"} <= _tables(storage)
        if has_studies:
            return _patient(storage)
    raise ArgumentError(
        f"storage={shown_url(storage)!r}: holds no studies of Optuna, so no tuning run. Give the storage that the run "
        "was started with."
    )


def _tables(url: str) -> set[str]:
    from sqlalchemy import create_engine, inspect  # slow to load, and only needed with a database

    engine = create_engine(url, connect_args=_time_limits(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def _storage(url: str | None) -> Any:
    """The storage behind a URL; opened again if another process creates its tables, or many open it, at that moment."""
    if url is None:
        return None
    crowded_until = time.monotonic() + CROWD_PATIENCE
    attempt = 0
    while True:
        try:
            if url.startswith(GRPC):
                return _proxy(url)
            options = _engine_options(url)
            if options:
                return optuna.storages.RDBStorage(url, engine_kwargs=options)
            return optuna.storages.get_storage(url)
        except Exception as error:
            said = _said(error)
            crowded = any(sign in said for sign in _CROWDED) and time.monotonic() < crowded_until
            attempt += not crowded
            if not crowded and (attempt == OPENING_ATTEMPTS or not any(sign in said for sign in _DISTURBED)):
                raise
        if crowded:
            gc.collect()  # what could not be opened still holds the connections that it got
        time.sleep(random.Random().uniform(0.5, 2.0) if crowded else random.Random().uniform(0.05, 0.2))


_DISTURBED = ("already exists", "locked", "UNIQUE", "Duplicate")
"""What databases say while another process creates the tables."""

_CROWDED = ("too many clients", "Too many connections", "connection slots are reserved")
"""What servers say that have no connection left."""


def _said(error: BaseException) -> str:
    """What an error says, and the driver's that it comes from: Optuna's own words guess at the reason."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _engine_options(url: str) -> dict[str, Any]:
    """How SQLAlchemy connects to a database; empty where its own way is the best that is known."""
    limits = _time_limits(url)
    if not limits:
        return {}
    # The threads of a worker seldom ask at once. One connection is kept: 64 workers that keep two are more than the 100
    # that PostgreSQL takes by default.
    return {"connect_args": limits} if url.startswith("sqlite") else {"connect_args": limits, "pool_size": 1}


def _time_limits(url: str) -> dict[str, float]:
    """Seconds that a database driver waits, by its own names, but for those that the URL sets.

    Without them a call waits for ever, or for hours, where the network swallows what it says.
    """
    from sqlalchemy.engine import make_url  # slow to load, and only needed with a database

    read = make_url(url)
    database, _, driver = read.drivername.partition("+")
    if driver not in KNOWN_DRIVERS:
        return {}
    return {name: limit for name, limit in TIME_LIMITS.get(database, {}).items() if name not in read.query}


def _patient(url: str | None) -> Any:
    """The storage behind a URL, for a run; a file is there or not, so only servers are waited for."""
    if url is None:
        return None
    opened = optuna.storages.get_storage(_storage(url))
    return PatientStorage(opened, url, patience=0.0 if url.startswith("sqlite") else PATIENCE)


def _proxy(url: str) -> Any:
    """Optuna's gRPC proxy, `grpc://host:port`, which stands before a database for many workers."""
    if find_spec("grpc") is None:
        raise MissingDependencyError(
            f"storage={shown_url(url)!r}: Optuna's gRPC proxy needs grpcio. Run: pip install grpcio."
        )
    address = urlsplit(url)
    host, port = address.hostname, address.port
    if host is None or port is None:
        raise ValueError("a gRPC proxy is named by host and port, such as 'grpc://localhost:13000'")
    with socket.create_connection((host, port), timeout=GRPC_PATIENCE), quiet_optuna():
        return optuna.storages.GrpcStorageProxy(host=host, port=port)


def _difference(key: StudyKey, others: list[Any]) -> str | None:
    """In what a new study differs from the most similar one with the same prefix; None if there is no such study."""
    digests = key.digests
    related = [
        other
        for other in others
        if other.study_name.startswith(f"{key.prefix}-") and KEY in other.user_attrs and other.n_trials
    ]
    if not related or not digests:
        return None
    closest = max(
        related, key=lambda other: sum(other.user_attrs[KEY].get(name) == digest for name, digest in digests.items())
    )
    return (
        f"storage: a new study {key.study_name!r} was started; the stored {closest.study_name!r} with its "
        f"{closest.n_trials} trials does not count, since it differs in: {', '.join(_differing(key, closest))}"
    )


def _differing(key: StudyKey, other: Any) -> list[str]:
    """Names of the parts of a key in which a stored study differs."""
    digests, stored = key.digests, other.user_attrs.get(KEY, {})
    return sorted(name for name in digests if stored.get(name) != digests[name])


def _another_study(key: StudyKey, expected: str, others: list[Any]) -> ArgumentError:
    """The error where a run that was to be gone on with is another one now."""
    found = next((other for other in others if other.study_name == expected), None)
    if found is None:
        return ArgumentError(f"study_name={expected!r}: the storage has no such study.")
    return ArgumentError(
        f"study_name={expected!r}: cannot be gone on with, since what decides its scores is not what it was. Changed: "
        f"{', '.join(_differing(key, found))}. Put that back, or start a new run."
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextmanager
def storage_errors(storage: str | None) -> Iterator[None]:
    """Turn whatever a database driver raises into an error that names the argument."""
    try:
        yield
    except MissingDependencyError:
        raise
    except Exception as error:
        if storage is None:
            raise
        shown = shown_url(storage)
        driver = getattr(error.__cause__, "name", None)
        if isinstance(error, ImportError) and driver is not None:
            package = _PACKAGES.get(driver, driver)
            raise MissingDependencyError(
                f"storage={shown!r}: its driver {driver} is not installed. Run: pip install {package}."
            ) from (None if holds_secrets(error, storage) else error)
        raise ArgumentError(
            f"storage={shown!r}: cannot be opened: {without_secrets(_said(error), storage)}. Give an Optuna storage "
            "URL such as 'sqlite:///run.db', 'grpc://host:port' of Optuna's proxy, or None to keep the trials in "
            "memory."
        ) from (None if holds_secrets(error, storage) else error)


_PACKAGES = {"psycopg": "'inc-autotune[postgresql]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Packages by the name of their module, if the names differ."""
