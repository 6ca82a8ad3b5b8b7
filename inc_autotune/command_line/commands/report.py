"""`report`: a run that has ended, or goes on, as a table, a page or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.errors import MET, UsageError
from inc_autotune.command_line.output import show, show_json
from inc_autotune.command_line.places import check_page, check_places
from inc_autotune.command_line.stored_runs import find_run, is_sqlite, storage_url
from inc_autotune.core.files import read_bytes
from inc_autotune.core.optional import require
from inc_autotune.core.result import TuningResult, result_so_far
from inc_autotune.core.search.study import StoredRun

LARGEST = 1 << 28
"""Bytes that a file with a result may have."""


@command
def report(
    source: Annotated[
        str, typer.Argument(metavar="STORAGE|RESULT", help="What --storage named, or a file of `tune --json`.")
    ],
    study: option.Study = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where an HTML page is written.")] = None,
    as_json: option.Json = False,
) -> int:
    """Show what a run found, or has found so far."""
    if output is not None:
        check_page(output, "--output")
        check_places({"--output": output}, {"STORAGE|RESULT": source})
        require("plotly", extra="report")
    run, result = _read(source, study)
    if output is not None:
        result.save_report(output)
    if as_json:
        about = {} if run is None else {"study_name": run.study_name, "workers": [asdict(each) for each in run.workers]}
        show_json({**about, **result.to_dict()})
        return MET
    if run is not None:
        show(f"run {run.study_name}")
        for each in run.workers:
            numbers = ", ".join(str(number + 1) for number in each.trials)
            show(f"process {each.number} on {each.host}: {f'evaluates trial {numbers}' if numbers else 'is at work'}")
    show(str(result))
    if output is not None:
        show(f"\nreport: {output}")
    return MET


def _read(source: str, study_name: str | None) -> tuple[StoredRun | None, TuningResult]:
    """The run of a storage with its result, or the result of a file."""
    path = Path(source)
    if "://" not in source and path.is_file() and not is_sqlite(path):
        if study_name is not None:
            raise UsageError(f"--study {study_name!r}: {source!r} is a file with one result. Leave --study out.")
        return None, TuningResult.from_dict(_document(path))
    run = find_run(storage_url(source, "STORAGE|RESULT"), study_name)
    return run, result_so_far(run)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path, LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"STORAGE|RESULT {str(path)!r}: is no database of SQLite, and cannot be read as JSON: {error}. Give what "
            "--storage named, or a file of `tune --json`."
        ) from error
    if not isinstance(document, dict) or "trials" not in document:
        raise UsageError(f"STORAGE|RESULT {str(path)!r}: holds no tuning result. Give a file of `tune --json`.")
    return document
