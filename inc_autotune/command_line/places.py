"""Files and folders that a command will write, looked at before any work."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from inc_autotune.command_line.errors import UsageError
from inc_autotune.core.arguments import check_file

PAGES = (".html", ".htm")


def check_page(path: str | Path, option: str) -> None:
    """Refuse what an HTML page cannot be written to.

    Raises:
        UsageError: the name is not one of a page.
        ArgumentError: it is a folder, or its folder does not exist.
    """
    if Path(path).suffix.lower() not in PAGES:
        raise UsageError(f"{option} {str(path)!r}: a report is an HTML page. Give a name that ends with .html.")
    check_file(path, option)


def check_places(written: Mapping[str, str | Path | None], read: Mapping[str, str | Path | None]) -> None:
    """Refuse to write over what is read, or over each other, and where nothing can be written.

    Args:
        written: what will be written, by the option that names it; None where it is not given.
        read: what is read, likewise. Names of Python objects are left alone.

    Raises:
        UsageError: two are one, or the system does not let a file be made there.
    """
    taken = {option: Path(path) for option, path in read.items() if path is not None}
    for option, given in written.items():
        if given is None:
            continue
        path = Path(given)
        for other, place in taken.items():
            if _is_same(path, place):
                raise UsageError(f"{option} {str(path)!r}: is {other} too, which would be lost. Give another name.")
        _check_writable(path, option)
        taken[option] = path


def _is_same(first: Path, second: Path) -> bool:
    with suppress(OSError):  # one of them does not exist, or its folder cannot be entered
        return first.samefile(second)
    return first.absolute() == second.absolute()


def _check_writable(path: Path, option: str) -> None:
    folder = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {str(path)!r}: nothing can be written to the folder {str(folder)!r}: {error.strerror}. Give "
            "another place."
        ) from error
