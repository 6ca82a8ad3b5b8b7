"""Names of files and folders that are being written, and the removal of those whose writer is dead."""

from __future__ import annotations

import os
import re
import shutil
import socket
from functools import cache
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

import psutil

_LONGEST = 120
"""Characters of a name that is kept in a temporary one; file systems allow 255 bytes in all."""


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing has yet, and that tells which process writes it."""
    return path.with_name(f".{short_name(path.name)}.{_place()}-{os.getpid()}-{uuid4().hex[:12]}.tmp")


def remove_litter(path: Path) -> None:
    """Remove what processes of this machine that are dead left of writing `path`."""
    pattern = re.compile(rf"\.{re.escape(short_name(path.name))}\.{_place()}-(\d+)-[0-9a-f]{{12}}\.tmp")
    for each in path.parent.iterdir():
        found = pattern.fullmatch(each.name)
        if found is not None and not psutil.pid_exists(int(found[1])):
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)  # another process may be at it too
            else:
                each.unlink(missing_ok=True)


def short_name(name: str) -> str:
    """A name that leaves room for what hidden names add: the name itself, or its beginning and a digest."""
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    return f"{name[: _LONGEST // 4]}~{blake2b(os.fsencode(name), digest_size=8).hexdigest()}"


@cache
def _place() -> str:
    """Where process numbers mean what they mean here: a digest of host, boot and, in containers, their namespace."""
    facts = [socket.gethostname(), str(int(psutil.boot_time()))]
    if os.path.lexists("/proc/self/ns/pid"):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return blake2b(" ".join(facts).encode(), digest_size=4).hexdigest()
