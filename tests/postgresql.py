"""A PostgreSQL server for one test run, which can be stopped and started."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class Server:
    """A server that listens on a port of this machine.

    Args:
        folder: where its data is.
        user: who runs it, which root may not.
    """

    def __init__(self, folder: Path, user: str) -> None:
        self._folder, self._user = folder, user
        self.port = free_port()
        self._call("initdb", "-U", "tuner", "--auth=trust", "--no-sync")
        self.start()

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        self._call("createdb", "-U", "tuner", "-h", "localhost", "-p", str(self.port), name, data=False)
        return f"postgresql://tuner@localhost:{self.port}/{name}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=localhost -c unix_socket_directories='' -c fsync=off"
        self._call("pg_ctl", "start", "-w", "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """At once, as a crash would."""
        self._call("pg_ctl", "stop", "-m", "immediate")

    def _call(self, program: str, *given: str, data: bool = True) -> None:
        folder = ["-D", str(self._folder / "data")] if data else []
        command = [str(PROGRAMS[-1].parent / program), *folder, *given]
        user = self._user if os.getuid() == 0 else None
        subprocess.run(command, user=user, check=True, capture_output=True, cwd=self._folder)


@contextmanager
def running_server() -> Iterator[Server]:
    """A server of its own; the test is skipped where none can be run."""
    user = _user()
    if not PROGRAMS or find_spec("psycopg") is None or user is None:
        pytest.skip("needs PostgreSQL, psycopg, and a user that may run it")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        shutil.chown(folder, user)
        server = Server(folder, user)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def _user() -> str | None:
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else None
