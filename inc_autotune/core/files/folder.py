"""Putting a folder in the place of another in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from inc_autotune.core.files.lock import locked
from inc_autotune.core.files.temporary import remove_litter, temporary_name
from inc_autotune.core.files.writing import sync_folder

_CURRENT_FOLDER, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of renameat2(2)."""

_WITHOUT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def replace_folder(made: Path, folder: Path) -> None:
    """Give a complete folder its name; the one that had the name is removed.

    On Linux there is a folder of that name at every moment, and it is the old one or the new one. Elsewhere, and on
    file systems that cannot exchange two names, there is none for an instant. Who reads while holding `locked` on the
    folder above, shared, reads one of them to its end.

    Args:
        made: the new folder, with a temporary name beside `folder`; it is gone afterwards.
        folder: the name. An empty folder, or one that may be replaced, or nothing.

    Raises:
        OSError: it cannot be done; what had the name still has it.
    """
    _sync(made)
    with locked(folder.parent):
        if not _renamed(made, folder) and not _exchanged(made, folder):
            _swap(made, folder)
        sync_folder(folder.parent)
        shutil.rmtree(made, ignore_errors=True)
    remove_litter(folder)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def _renamed(made: Path, folder: Path) -> bool:
    """Whether a rename did it: nothing had the name, or an empty folder."""
    try:
        os.rename(made, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM) and folder.is_dir():
            return False
        raise
    return True


def _exchanged(made: Path, folder: Path) -> bool:
    """Whether the system could exchange the two names."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = (os.fsencode(made), os.fsencode(folder))
    if library.renameat2(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _WITHOUT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(folder))


def _swap(made: Path, folder: Path) -> None:
    """Two renames. What had the name comes back when the second fails."""
    old = temporary_name(folder)
    os.replace(folder, old)
    try:
        os.replace(made, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
