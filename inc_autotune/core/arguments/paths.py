"""Paths that the user gave, checked before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

from inc_autotune.core.arguments.checks import shown
from inc_autotune.core.errors import ArgumentError


def check_path(path: object, argument: str = "path", *, allowed: str = "a str or pathlib.Path") -> Path:
    """An argument as a path.

    Args:
        path: the argument.
        argument: name of the argument, for messages.
        allowed: what the argument may be, for messages.

    Raises:
        ArgumentError: the argument is neither a str nor a path, or no file can have such a name.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(f"{argument}={shown(path)}: not a path. Allowed: {allowed}.")
    text = os.fspath(path)
    problem = _problem(text)
    if problem is not None:
        raise ArgumentError(f"{argument}={shown(text)}: {problem}. Allowed: {allowed}.")
    return Path(path)


def _problem(text: str) -> str | None:
    """Why a text can be no path on this system."""
    if not text:
        return "is empty"
    try:
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, a NUL inside, lone surrogates, a folder that may not be entered
        return f"cannot be a path here: {getattr(error, 'strerror', None) or error}"
    return None


def check_file(path: object, argument: str = "path") -> Path:
    """An argument as the path of a file that can be written.

    Raises:
        ArgumentError: the argument is no path or is a directory, or the directory of the file does not exist.
    """
    file = check_path(path, argument)
    if file.is_dir():
        raise ArgumentError(f"{argument}={str(file)!r}: is a directory. Give the name of a file in it.")
    if not file.parent.is_dir():
        raise ArgumentError(
            f"{argument}={str(file)!r}: the directory {str(file.parent)!r} does not exist. Make it first."
        )
    return file
