"""What commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from typing import Any

import typer

from inc_autotune.core.analysis import Inspection
from inc_autotune.core.plain_values import finite


def show(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a remark, which is not part of the result, to stderr."""
    typer.echo(text, err=True)


def show_json(value: Any) -> None:
    """Print a result for a script. Numbers that JSON does not have become null."""
    typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))


def inspection_as_json(inspection: Inspection) -> dict[str, Any]:
    """An inspection in plain values."""
    names = ("name", "type", "options", "reason", "weight_share")
    return {
        "quantizable_share": inspection.quantizable_share,
        "operators": [{name: getattr(each, name) for name in names} for each in inspection.operators],
    }
