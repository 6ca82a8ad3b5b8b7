"""Whether another process, known from a database, still runs.

A process number says little: it is given again, each container counts its own, and containers may share a host name.
So a process is known by where its number was given and by when it began as well.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this or another machine.

    Args:
        host: the machine's name.
        number: the process number.
        kernel: names the running kernel and its clock; empty where the system does not tell (other than Linux).
        namespace: where the number was given, such as a container; empty where the system does not tell.
        started: ticks of the kernel's clock; None where the system does not tell.
    """

    host: str
    number: int
    kernel: str = ""
    namespace: str = ""
    started: int | None = None


def this_process() -> Process:
    """The process that asks."""
    status = _status("self")
    return Process(
        platform.node(),
        os.getpid(),
        f"{_read('/proc/sys/kernel/random/boot_id')} {_link('/proc/self/ns/time')}".strip(),
        _link("/proc/self/ns/pid"),
        None if status is None else status[1],
    )


def is_gone(process: Process) -> bool:
    """Whether a process has ended for certain; not to be asked about this very one."""
    here = this_process()
    if (process.host, process.kernel, process.namespace) != (here.host, here.kernel, here.namespace):
        return False
    if process.number == here.number:
        # A process of earlier times had the number that this one has.
        return True
    # On Windows signal 0 would end the process that is asked about.
    if os.name != "posix":
        return False
    try:
        os.kill(process.number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # The files of /proc may be those of an outer namespace, which counts in its own way.
    status = _status(str(process.number)) if _link("/proc/self") == str(here.number) else None
    return status is not None and (status[0] in "ZX" or process.started not in (None, status[1]))


def is_neighbour(process: Process) -> bool:
    """Whether a process runs, or ran, on this kernel in another container: out of sight, but with the same clock."""
    here = this_process()
    return process.kernel == here.kernel != "" and process.namespace != here.namespace


def _status(number: str) -> tuple[str, int] | None:
    """State (Z: ended, but not yet asked for its exit code) and start of a process of this namespace."""
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = _read(f"/proc/{number}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
