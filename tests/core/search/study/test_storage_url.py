"""No part of a storage URL but scheme, host and database is ever said."""

from __future__ import annotations

import traceback
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inc_autotune.core.errors import AutotuneError
from inc_autotune.core.search.study.storage import check_storage
from inc_autotune.core.search.study.storage_url import holds_secrets, shown_url, without_secrets

SECRET = "S3CRET"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://host/tuning", "postgresql://host/tuning"),
        ("postgresql+psycopg2://u:S3CRET@host:5432/tuning", "postgresql+psycopg2://***@host:5432/tuning"),
        ("postgresql://[::1]:5432/tuning", "postgresql://[::1]:5432/tuning"),
        ("sqlite:///folder/run.db", "sqlite:///folder/run.db"),
        ("sqlite:///run.db?key=S3CRET", "sqlite:///run.db?***"),
        ("sqlite://", "sqlite://"),
        ("run.db", "run.db"),
        ("grpc://localhost:13000", "grpc://localhost:13000"),
        ("postgresql//u:S3CRET@h/x", "postgresql://***@h/x"),
        ("postgresql:/u:S3CRET@h/x", "postgresql://***@h/x"),
        ("u:S3CRET@h/x", "u://***"),
        ("mysql+pymysql://h/x?pwd=S3CRET", "mysql+pymysql://h/x?***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3DS3CRET", "mssql+pyodbc://?***"),
        ("mysql://h/x?user=me@home&password=S3CRET", "mysql://***"),
        ("postgresql://u:a?b@S3CRET", "postgresql://***"),
        ("postgresql://u:S3 CRET", "postgresql://***"),
    ],
)
def test_scheme_host_and_database_are_shown(url, shown):
    assert SECRET not in shown_url(url)
    if url != "u:S3CRET@h/x":
        assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//u:S3CRET@h/x",
        "u:S3CRET@h/x",
        "mysql+pymysql://h/x?pwd=S3CRET",
        "mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3DS3CRET",
        "postgresql://u:a\nS3CRET@h/x",
        "nowhere://u:S3CRET@h:port/x",
        "grpc://u:S3CRET@h",
        "grpc://S3CRET",
    ],
)
def test_a_storage_that_cannot_be_opened_says_no_secret(url):
    with pytest.raises(AutotuneError) as caught:
        check_storage(url)
    if url != "grpc://S3CRET":  # that is a host
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@given(
    user=st.text("abcXYZ%:/@?#&= ", max_size=8),
    password=st.text("abcXYZ%:/@?#&= \n", min_size=1, max_size=8),
    how=st.sampled_from(
        ["://{user}:{password}SECRET@h/x", "://h/x?password={password}SECRET", "://h/x?a={user}&pw={password}SECRET"]
    ),
    quoted=st.booleans(),
)
def test_whatever_a_password_holds_it_is_not_shown(user, password, how, quoted):
    if quoted:
        user, password = quote(user, safe=""), quote(password, safe="")
    url = "postgresql" + how.format(user=user, password=password)
    assert "SECRET" not in shown_url(url)


@given(st.text("abc:/@%", min_size=3, max_size=12))
def test_what_a_driver_says_is_cleaned(password):
    url = f"postgresql://user:{password}SECRET@host/tuning"
    assume("host" not in password)
    said = without_secrets(f"login with {password}SECRET at {url} failed", url)
    assert "SECRET" not in said
    assert holds_secrets(ValueError(f"from {url}"), url)


def test_the_errors_behind_an_error_are_looked_at():
    url = "postgresql://user:S3CRET@host/tuning"
    error = ValueError("failed")
    error.__context__ = KeyError("S3CRET")
    assert holds_secrets(error, url)
    assert not holds_secrets(ValueError("no route to host"), url)
