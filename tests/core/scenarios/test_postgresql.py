"""Sharing, kills and outages on a PostgreSQL server, where one can be started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from tests.core.scenarios.test_sharing import evaluations, outcome, start
from tests.postgresql import free_port, is_listening, running_server

PROXY = """
import sys, optuna
storage = optuna.storages.RDBStorage(sys.argv[1])
optuna.storages.run_grpc_proxy_server(storage, host="localhost", port=int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def server():
    with running_server() as found:
        yield found


@pytest.fixture
def url(server, request):
    return server.database(request.node.name[:50])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds that is left in peace."""
    return outcome(start(tmp_path_factory.mktemp("alone")))


def wait_for_evaluations(directory, number):
    deadline = time.monotonic() + 120
    while not (directory / "evaluations").exists() or len(evaluations(directory)) < number:
        assert time.monotonic() < deadline, "nothing was evaluated"
        time.sleep(0.05)


def times_evaluated(directory):
    return Counter(quantized for _, quantized in evaluations(directory))


def test_two_processes_share_and_one_goes_on_when_the_other_is_killed(url, tmp_path, alone):
    killed = start(tmp_path, die_at=2, seconds=0.3, storage=url)
    survivor = start(tmp_path, "survivor", seconds=0.3, storage=url)
    killed.communicate(timeout=120)
    found = outcome(survivor)
    assert killed.returncode == -9
    assert max(times_evaluated(tmp_path).values()) == 1
    assert found[1] == alone[1]


def test_four_processes_outlive_a_kill_a_stop_and_a_server_that_is_restarted(server, url, tmp_path, alone):
    killed = start(tmp_path, "killed", die_at=2, seconds=0.3, storage=url)
    others = [start(tmp_path, f"worker {number}", seconds=0.3, storage=url) for number in range(3)]
    wait_for_evaluations(tmp_path, 2)
    os.kill(others[0].pid, signal.SIGSTOP)
    server.stop()
    time.sleep(2)
    server.start()
    os.kill(others[0].pid, signal.SIGCONT)
    killed.communicate(timeout=120)
    found = [outcome(process) for process in others]
    assert [answer[1] for answer in found] == [alone[1]] * 3
    assert len({answer[0] for answer in found}) == 1
    # An evaluation is lost only with the process that did it.
    assert max(times_evaluated(tmp_path).values()) == 1


@contextmanager
def proxy(url, port):
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROXY, url, str(port)])
    try:
        deadline = time.monotonic() + 60
        while not is_listening(port):
            assert time.monotonic() < deadline, "the proxy did not start"
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_proxy_and_the_server_behind_it_may_be_restarted(server, url, tmp_path, alone):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    port = free_port()
    with proxy(url, port):
        workers = [start(tmp_path, who, seconds=0.5, storage=f"grpc://localhost:{port}") for who in ("first", "second")]
        wait_for_evaluations(tmp_path, 1)
        server.stop()
        server.start()
        wait_for_evaluations(tmp_path, 2)
    with proxy(url, port):
        found = [outcome(process) for process in workers]
    assert [answer[1] for answer in found] == [alone[1]] * 2
    assert max(times_evaluated(tmp_path).values()) == 1
