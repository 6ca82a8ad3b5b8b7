"""Runs that a storage holds, as commands name them, and what `tune` keeps there to go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inc_autotune.command_line.configuration import Configuration
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.output import note
from inc_autotune.core.arguments import check_path
from inc_autotune.core.search.study import StoredRun, choose_run, read_runs, shown_url

SQLITE = b"SQLite format 3\0"
"""How a database of SQLite begins."""

_CONFIGURATION, _FOLDER = "configuration", "folder"


def storage_url(text: str, argument: str = "STORAGE") -> str:
    """The URL of a storage that was named by it, or by the file of an SQLite database.

    Raises:
        UsageError: it is neither, or there is no such file.
    """
    if "://" in text:
        return text
    if not check_path(text, argument).is_file():
        raise UsageError(
            f"{argument} {text!r}: there is no such file. Allowed: a file of SQLite, such as run.db, or a storage's "
            "URL, such as postgresql://user@host/tuning."
        )
    if not is_sqlite(Path(text)):
        raise UsageError(f"{argument} {text!r}: is no database of SQLite. Give the storage that `tune` was given.")
    return f"sqlite:///{text}"


def is_sqlite(path: Path) -> bool:
    """Whether a file is a database of SQLite.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError as error:
        raise UsageError(f"{str(path)!r}: cannot be read: {error}.") from error


def find_run(url: str, study_name: str | None) -> StoredRun:
    """The run of a storage, see `choose_run`."""
    return choose_run(read_runs(url), study_name)


def origin_of(configuration: Configuration) -> dict[str, Any]:
    """What is kept with a study, so that `resume` can go on: the run as its file says it, and where paths start.

    The storage is left out, since its URL may hold a password.
    """
    values = configuration.model_dump(mode="json", exclude_defaults=True, exclude={"storage"})
    return {_CONFIGURATION: values, _FOLDER: os.getcwd()}


def continued(run: StoredRun, url: str, changes: Mapping[str, Any]) -> Configuration:
    """The configuration that a run was started with, to go on by it; says so where that was in another folder.

    Args:
        run: of a storage.
        url: of that storage.
        changes: what the user wants otherwise, by name of a field; None where nothing is.

    Raises:
        UsageError: the run was not started by this program, or by another version, whose options were others.
    """
    if run.origin is None:
        raise UsageError(
            f"STORAGE {shown_url(url)!r}: the run {run.study_name!r} was not started by `inc-autotune tune`, so the "
            "storage does not say with which model and data. Make the same call of autotune again: it goes on from "
            "there."
        )
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        configuration = Configuration.model_validate({**run.origin.get(_CONFIGURATION, {}), **given, "storage": url})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"STORAGE {shown_url(url)!r}: what the run {run.study_name!r} was started with is not understood: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}. Start it again with `inc-autotune tune`."
        ) from error
    folder = run.origin.get(_FOLDER)
    if folder not in (None, os.getcwd()):
        note(f"the run was started in {folder}: its paths are looked for here")
    return configuration
