"""Paths that something is to be written to, checked before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

from inc_autotune.core.argument_checks import shown
from inc_autotune.core.errors import ArgumentError


def check_path(path: object, argument: str) -> Path:
    """An argument as an absolute path.

    Args:
        path: the argument.
        argument: its name, for messages.

    Raises:
        ArgumentError: it is no path, or what is above it is not a directory.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"{argument}={shown(path)}: not a path. Allowed: a str or pathlib.Path.")
    absolute = Path(os.path.abspath(path))
    above = next(each for each in absolute.parents if os.path.lexists(each))
    if not above.is_dir():
        raise ArgumentError(f"{argument}={str(path)!r}: {str(above)!r} is not a directory. Give another place.")
    return absolute


def check_file(path: object, argument: str) -> Path:
    """An argument as the absolute path of a file that can be written.

    Raises:
        ArgumentError: it is no path, its directory does not exist, or it is a directory.
    """
    absolute = check_path(path, argument)
    if absolute.is_dir():
        raise ArgumentError(f"{argument}={str(path)!r}: is a directory. Give the name of a file in it.")
    if not absolute.parent.is_dir():
        raise ArgumentError(f"{argument}={str(path)!r}: {str(absolute.parent)!r} does not exist. Make it first.")
    return absolute
