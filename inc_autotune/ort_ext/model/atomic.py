"""Writes files so that a crash leaves the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name, and rename it when all bytes are on the disk.

    Args:
        path: the file, replaced when there is one.
        write: writes the content; when it raises, nothing is left behind.
    """
    put(write_temporary(path, write), path)
    sync_folder(path.parent)


def write_temporary(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Write a file under a temporary name beside `path`, down to the disk; for a name that depends on the content."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def put(temporary: Path, path: Path) -> None:
    """Give a temporary file its name, in one step; when that fails, the temporary file is removed."""
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a loss of power, where the system and its file system can do so."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)
