"""Reading files that may be anything: only regular ones, and no more than there should be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from inc_autotune.core.files.writing import settled

_TRIES = 100


def read_settled(path: Path, largest: int) -> bytes:
    """The content of a file that `write_files` may have written: that of its last complete call.

    Arguments and errors are those of `read_bytes`.
    """
    for _ in range(_TRIES):
        place = settled(path)
        try:
            return read_bytes(place, largest)
        except FileNotFoundError:
            if place == path:
                raise  # else it got its name meanwhile
    raise OSError(errno.EBUSY, "is written again and again while it is read", str(path))


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        largest: bytes that it may have.

    Raises:
        OSError: it cannot be read, is a device or a pipe, or has more bytes.
    """
    # Opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if found.st_size > largest:
            raise OSError(errno.EFBIG, f"has {found.st_size} bytes, more than {largest}", str(path))
        return file.read(largest + 1)
