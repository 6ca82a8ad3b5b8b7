"""Paths that something is to be written to, checked before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

from inc_autotune.core.arguments import paths
from inc_autotune.core.errors import ArgumentError


def check_path(path: object, argument: str) -> Path:
    """An argument as an absolute path.

    Args:
        path: the argument.
        argument: its name, for messages.

    Raises:
        ArgumentError: it is no path, or what is above it is not a directory.
    """
    absolute = Path(os.path.abspath(paths.check_path(path, argument)))
    above = next(each for each in absolute.parents if os.path.lexists(each))
    if not above.is_dir():
        raise ArgumentError(f"{argument}={str(path)!r}: {str(above)!r} is not a directory. Give another place.")
    return absolute


def check_file(path: object, argument: str) -> Path:
    """An argument as the absolute path of a file that can be written.

    Raises:
        ArgumentError: it is no path, its directory does not exist, or it is a directory.
    """
    return paths.check_file(check_path(path, argument), argument)
