"""Whether another process, known from a database, still runs.

A process number alone is not enough: numbers are given again, and each machine and each container counts its own. So a
process is known by its number, the moment it started, and the machine and namespace that gave the number. Where one of
these is unknown nothing is concluded, and the heartbeats of `workers` decide.
"""

from __future__ import annotations

import os
import platform
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TOLERANCE = 2.0
"""Seconds between two readings of when a process started: the system's boot time is known to one second."""


@dataclass(frozen=True)
class Process:
    """A process of this or another machine.

    Args:
        host: the machine's name.
        number: the process number.
        kernel: identifies the running kernel and its clock; empty where unknown.
        namespace: identifies what gave the number, such as a container; empty where unknown.
        started: seconds after the system's start, which setting the clock does not change.
    """

    host: str
    number: int
    kernel: str
    namespace: str
    started: float


def this_process() -> Process:
    """The process that asks."""
    return Process(platform.node(), os.getpid(), _kernel(), _namespace(), _started(psutil.Process()))


def is_gone(process: Process) -> bool:
    """Whether a process has ended for certain; not to be asked about this very one."""
    here = this_process()
    place = (process.host, process.kernel, process.namespace)
    if place != (here.host, here.kernel, here.namespace) or not here.kernel or not here.namespace:
        return False
    if process.number == here.number:
        # An earlier process had the number that this process has now.
        return True
    try:
        found = psutil.Process(process.number)
        # A zombie has ended; its parent has not asked for the exit code yet.
        return found.status() == psutil.STATUS_ZOMBIE or abs(_started(found) - process.started) > START_TOLERANCE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def is_neighbour(process: Process) -> bool:
    """Whether a process runs, or ran, in another container on this kernel: its number is unknown here, its clock is
    the same."""
    here = this_process()
    return process.kernel == here.kernel != "" and process.namespace != here.namespace


def _started(process: psutil.Process) -> float:
    # Both readings move when the clock is set; their difference does not.
    boot = psutil.boot_time()
    return float(process.create_time() - boot)


def _kernel() -> str:
    if sys.platform != "linux":
        return str(uuid.getnode())
    # Containers may have the host's name, but not the boot id of another kernel.
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot_id.read_text().strip()} {_link('/proc/self/ns/time')}" if boot_id.exists() else ""


def _namespace() -> str:
    if sys.platform != "linux":
        return "the only one"
    # A container may see the /proc of its host, which counts processes in another way.
    return _link("/proc/self/ns/pid") if _link("/proc/self") == str(os.getpid()) else ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
