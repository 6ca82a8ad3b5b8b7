"""Files that are written completely or not at all, one alone or several that belong together.

A file is written under a temporary name, down to the disk, and renamed. Of several, one is the main file, whose rename
decides: before it the others wait as `.name.<digest of the main file>.<its name>.next`, behind it they get their names.
Where a crash falls between, `settled` finds the one that waits.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files.lock import locked
from inc_autotune.core.files.temporary import remove_litter, short_name, temporary_name

Content = bytes | Callable[[BinaryIO], object]
"""The bytes of a file, or what writes them."""

_NEXT = ".next"
_CHUNK = 2**22
_DIGEST_SIZE = 8


@contextmanager
def writing(path: Path, argument: str = "path") -> Iterator[None]:
    """Turn what the system raises inside into an ArgumentError that names the path."""
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"{argument}={str(path)!r}: cannot be written: {error}. What was there is as it was; give another place, "
            "or make room for it."
        ) from error


def write_file(path: Path, content: Content, argument: str = "path") -> None:
    """Write a file; one that is there is replaced in one step, with its mode, and stays as it was when anything fails.

    A link stays a link: what it leads to is replaced.

    Args:
        path: the file; its folder must exist.
        content: of the file.
        argument: what gave the path, for messages.

    Raises:
        ArgumentError: there is something else than a file, or nothing can be written there.
    """
    write_files(path, content, {}, argument)


def write_files(main: Path, content: Content, beside: Mapping[Path, Content | None], argument: str = "path") -> None:
    """Write several files of one folder: a crash at any time leaves all old ones or, read with `settled`, all new ones.

    Args:
        main: the file that decides which of the others count.
        content: of the main file.
        beside: contents of the others, by path in the folder of `main`; None: a file of that name is removed.
        argument: what gave the path, for messages.

    Raises:
        ArgumentError: there is something else than a file, or nothing can be written there.
    """
    made: list[Path] = []
    with writing(main, argument):
        target = _target(main, argument)
        others = {_target(path, argument): each for path, each in beside.items() if each is not None}
        for path in (target, *others):
            remove_litter(path)
        try:
            for path, each in others.items():
                made.append(write_temporary(path, each))
            made.append(write_temporary(target, content))
            digest = digest_of(made[-1]) if others else ""
            with locked(target.parent):
                waiting = [_waiting(path, digest, target.name) for path in others]
                for index, place in enumerate(waiting):
                    os.replace(made[index], place)
                    made[index] = place
                if others:
                    sync_folder(target.parent)
                os.replace(made[-1], target)
                made.clear()  # from here on what waits belongs to the main file
                for path, place in zip(others, waiting, strict=True):
                    os.replace(place, path)
                for path in beside:
                    for stale in _waiting_for(path):
                        stale.unlink(missing_ok=True)
                    if beside[path] is None:
                        path.unlink(missing_ok=True)
        except BaseException:
            for place in made:
                with suppress(OSError):  # the error that is on its way tells more
                    place.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def settled(path: Path) -> Path:
    """Where to read a file that `write_files` wrote beside a main one: its name, or where it waits since a crash."""
    path = path.resolve() if path.is_symlink() else path
    for waiting in _waiting_for(path):
        digest, _, main = waiting.name.removeprefix(_prefix(path)).removesuffix(_NEXT).partition(".")
        decided = [each for each in path.parent.iterdir() if short_name(each.name) == main and each.is_file()]
        if any(digest_of(each) == digest for each in decided):
            return waiting
    return path


def write_temporary(path: Path, content: Content) -> Path:
    """Write a file under a temporary name beside `path`, down to the disk; it has the mode of a file that is there."""
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            if path.exists() and os.name == "posix":
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
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


def digest_of(content: Path | bytes) -> str:
    """A digest of the content of a file, or of what will be its content."""
    digest = blake2b(digest_size=_DIGEST_SIZE)
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _target(path: Path, argument: str) -> Path:
    """The file itself, behind links.

    Raises:
        ArgumentError: it is a device, a pipe, or a folder.
    """
    target = path.resolve() if path.is_symlink() else path
    if os.path.lexists(target) and not target.is_file():
        raise ArgumentError(
            f"{argument}={str(path)!r}: is no regular file, and is not replaced. Give the name of a file, a new one or "
            "one that may be replaced."
        )
    return target


def _prefix(path: Path) -> str:
    return f".{short_name(path.name)}."


def _waiting(path: Path, digest: str, main: str) -> Path:
    return path.with_name(f"{_prefix(path)}{digest}.{short_name(main)}{_NEXT}")


def _waiting_for(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    prefix = _prefix(path)
    return [each for each in path.parent.iterdir() if each.name.startswith(prefix) and each.name.endswith(_NEXT)]
