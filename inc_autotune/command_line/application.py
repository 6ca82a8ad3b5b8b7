"""The program `inc-autotune`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from inc_autotune import __version__
from inc_autotune.command_line.boundary import SETTINGS
from inc_autotune.command_line.commands.apply import apply
from inc_autotune.command_line.commands.benchmark import benchmark
from inc_autotune.command_line.commands.compare import compare
from inc_autotune.command_line.commands.doctor import doctor
from inc_autotune.command_line.commands.inspect import inspect
from inc_autotune.command_line.commands.report import report
from inc_autotune.command_line.commands.resume import resume
from inc_autotune.command_line.commands.tune import quantize, tune
from inc_autotune.command_line.commands.workers import workers

application = typer.Typer(
    name="inc-autotune",
    help="Smaller and faster models of PyTorch, ONNX and TensorFlow without losing accuracy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for each in (tune, quantize, inspect, benchmark, compare, apply, report, resume, workers, doctor):
    application.command()(each)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inc-autotune {__version__}")
        raise typer.Exit


@application.callback()
def _prepare(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log, and tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version, and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    SETTINGS.verbose = verbose
    logging.getLogger("inc_autotune").setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Run the program, in a process of its own; exits with its code."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)  # where module:object is looked for first, as `python -m` does
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    application()
