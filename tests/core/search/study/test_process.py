"""Processes known by more than their number."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from inc_autotune.core.search.study.process import Process, is_gone, is_neighbour, this_process

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def seen(child):
    started = psutil.Process(child.pid).create_time() - psutil.boot_time()
    return replace(this_process(), number=child.pid, started=started)


def test_a_process_is_there_until_it_ends(child):
    process = seen(child)
    assert not is_gone(process)
    child.kill()
    child.wait()
    assert is_gone(process)


@linux
def test_a_process_nobody_asked_for_its_exit_code_is_gone(child):
    process = seen(child)
    child.kill()
    deadline = time.monotonic() + 30
    while not is_gone(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(process)
    assert child.returncode is None


def test_a_number_that_was_given_again_is_another_process(child):
    assert is_gone(replace(seen(child), started=1))


def test_the_number_of_this_process_was_given_again_too():
    assert is_gone(replace(this_process(), started=1))
    assert this_process().number == os.getpid()


@pytest.mark.parametrize("value", ["another", ""])
@pytest.mark.parametrize("place", ["host", "kernel", "namespace"])
def test_numbers_of_another_or_an_unknown_machine_or_container_say_nothing(place, value):
    process = replace(this_process(), **{place: value})
    assert not is_gone(process)
    assert not is_gone(replace(process, number=2**22 + 1))


@linux
def test_neighbours_share_the_kernel_and_not_the_numbers():
    assert is_neighbour(replace(this_process(), namespace="pid:[1]", host="another"))
    assert not is_neighbour(this_process())
    assert not is_neighbour(replace(this_process(), kernel="another", namespace="pid:[1]"))
    assert not is_neighbour(Process("another", 1, "", "", 0.0))
