"""Storages that cannot be opened."""

import traceback

import pytest

from inc_autotune.core.errors import ArgumentError, MissingDependencyError
from inc_autotune.core.search.study import storage
from inc_autotune.core.search.study.storage import check_storage


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nowhere://me:secret@host:5432/tuning", "nowhere://***@host:5432/tuning"),
        ("nowhere://me:sec:r@et@host/tuning", "nowhere://***@host/tuning"),
        ("nowhere://host/tuning?user=me&password=secret&x=1", "nowhere://host/tuning?***"),
        ("nowhere://me@host/tuning", "nowhere://***@host/tuning"),
        ("grpc://me:secret@host", "grpc://***@host"),
        ("nothing", "nothing"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url, shown):
    with pytest.raises((ArgumentError, MissingDependencyError)) as caught:
        check_storage(url)
    assert f"storage={shown!r}" in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_what_a_database_says_is_repeated_without_the_password(monkeypatch):
    url = "nowhere://me:secret@host/tuning"

    def refuse(_):
        raise OSError(f"no connection to {url}")

    monkeypatch.setattr(storage, "_storage", refuse)
    with pytest.raises(ArgumentError, match=r"no connection to nowhere://\*\*\*@host/tuning") as caught:
        check_storage(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_server_without_a_free_connection_is_waited_for_and_one_is_kept(monkeypatch):
    opened, slept = [], []

    def connect(url, engine_kwargs):
        opened.append(engine_kwargs["pool_size"])
        if len(opened) < storage.OPENING_ATTEMPTS + 2:
            raise ValueError("An exception is raised during the commit.") from OSError(
                "sorry, too many clients already"
            )
        return "storage"

    monkeypatch.setattr(storage.optuna.storages, "RDBStorage", connect)
    monkeypatch.setattr(storage.time, "sleep", slept.append)
    monkeypatch.setattr(storage, "OPENING_ATTEMPTS", 2)  # attempts in a crowd are not counted
    assert storage._storage("postgresql+psycopg://host/tuning") == "storage"
    assert opened == [1] * (storage.OPENING_ATTEMPTS + 2)
    assert len(slept) == storage.OPENING_ATTEMPTS + 1
    opened.clear()
    monkeypatch.setattr(storage, "CROWD_PATIENCE", -1.0)
    with pytest.raises(ArgumentError, match="too many clients"), storage.storage_errors("postgresql://host/tuning"):
        storage._storage("postgresql+psycopg://host/tuning")
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("driver", "package"),
    [
        ("psycopg", r"'inc-autotune\[postgresql\]'"),
        ("psycopg2", "psycopg2-binary"),
        ("MySQLdb", "mysqlclient"),
        ("oracledb", "oracledb"),
    ],
)
def test_a_missing_driver_is_named(monkeypatch, driver, package):
    def refuse(_):
        raise ImportError("Please install appropriate one.") from ModuleNotFoundError("no module", name=driver)

    monkeypatch.setattr(storage, "_storage", refuse)
    with pytest.raises(MissingDependencyError, match=rf"driver {driver} is not installed. Run: pip install {package}"):
        check_storage("postgresql://me:secret@host/tuning")


@pytest.mark.parametrize(
    ("url", "limited"),
    [
        ("sqlite:///run.db", {"timeout"}),
        ("postgresql://host/tuning", {"connect_timeout", "tcp_user_timeout"}),
        ("postgresql+psycopg2://host/tuning?sslmode=require", {"connect_timeout", "tcp_user_timeout"}),
        ("mysql+pymysql://host/tuning", {"connect_timeout", "read_timeout", "write_timeout"}),
    ],
)
def test_no_driver_waits_for_ever(url, limited):
    assert limited <= storage._time_limits(url).keys()


def test_limits_of_the_url_stay_and_unknown_drivers_get_none():
    assert "connect_timeout" not in storage._time_limits("postgresql://host/tuning?connect_timeout=3")
    assert storage._time_limits("postgresql+pg8000://host/tuning") == {}
    assert storage._time_limits("oracle://host/tuning") == {}
