"""What commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

import typer

from inc_autotune.core.analysis import Inspection
from inc_autotune.core.plain_values import finite

_RESULTS: ContextVar[TextIO | None] = ContextVar("results", default=None)
"""Where results go; None: to stdout."""


@contextmanager
def results_alone() -> Iterator[None]:
    """Let only results go to stdout: whatever else prints, such as an evaluation of the user, prints to stderr."""
    token = _RESULTS.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _RESULTS.reset(token)


def show(text: str) -> None:
    """Print a result."""
    typer.echo(text, file=_RESULTS.get())


def note(text: str) -> None:
    """Print a remark, which is not part of the result, to stderr."""
    typer.echo(text, err=True)


def show_json(value: Any) -> None:
    """Print a result for a script. Numbers that JSON does not have become null."""
    show(json.dumps(finite(value), indent=2, allow_nan=False))


def inspection_as_json(inspection: Inspection) -> dict[str, Any]:
    """An inspection in plain values."""
    names = ("name", "type", "options", "reason", "weight_share")
    return {
        "quantizable_share": inspection.quantizable_share,
        "operators": [{name: getattr(each, name) for name in names} for each in inspection.operators],
    }
