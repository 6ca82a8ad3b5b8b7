"""A lock on a folder, held while files in it are renamed or read together."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP)
"""What file systems without locks answer, some network ones among them."""


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for, and hold, the lock on a folder; where the system has none, nothing is held.

    Args:
        folder: that exists.
        shared: for readers, who do not disturb each other.
    """
    if os.name != "posix":  # elsewhere a folder cannot be opened
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
