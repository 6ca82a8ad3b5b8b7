"""Sharing and kills on a PostgreSQL server, where one can be started."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.core.scenarios.test_sharing import evaluations, outcome, start

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _user() -> str | None:
    """Who runs the server, which root may not."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else None


@pytest.fixture(scope="module")
def server():
    """The URL of a server of its own, which listens on a socket in a temporary folder."""
    if not PROGRAMS or find_spec("psycopg") is None or _user() is None:
        pytest.skip("needs PostgreSQL, psycopg, and a user that may run it")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # the path of a socket has 107 characters at most
    user = _user()
    shutil.chown(folder, user)

    def call(program: str, *given: str) -> None:
        command = [str(PROGRAMS[-1] / program), "-D", str(folder / "data"), *given]
        subprocess.run(command, user=user if os.getuid() == 0 else None, check=True, capture_output=True, cwd=folder)

    try:
        call("initdb", "-U", "tuner", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield f"postgresql+psycopg://tuner@/postgres?host={folder}"
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_two_processes_share_and_one_goes_on_when_the_other_is_killed(server, tmp_path):
    killed = start(tmp_path, die_at=2, seconds=0.3, storage=server)
    survivor = start(tmp_path, "survivor", seconds=0.3, storage=server)
    killed.communicate(timeout=120)
    found = outcome(survivor)
    assert killed.returncode == -9
    assert max(Counter(quantized for _, quantized in evaluations(tmp_path)).values()) == 1
    (tmp_path / "whole").mkdir()
    assert found[1] == outcome(start(tmp_path / "whole"))[1]
