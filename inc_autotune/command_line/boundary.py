"""Where errors become one line and an exit code."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import typer

from inc_autotune.command_line.errors import BAD_USAGE, FAILED, INTERRUPTED
from inc_autotune.command_line.output import note
from inc_autotune.core.errors import AutotuneError, CalibrationError, EvaluationError, QuantizationError

P = ParamSpec("P")


@dataclass
class Settings:
    """What the options before the command say.

    Args:
        verbose: whether errors show their tracebacks.
    """

    verbose: bool = False


SETTINGS = Settings()


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Make a command of a function that returns its exit code and raises errors of this library."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except AutotuneError as error:
            _show(error)
            began = isinstance(error, EvaluationError | CalibrationError | QuantizationError)
            raise typer.Exit(FAILED if began else BAD_USAGE) from error
        except KeyboardInterrupt as error:
            note("interrupted" if not str(error) else f"interrupted: {_finished(error)}")
            raise typer.Exit(INTERRUPTED) from error
        raise typer.Exit(code)

    return run


def _show(error: AutotuneError) -> None:
    if SETTINGS.verbose:
        note("".join(traceback.format_exception(error)).rstrip())
    note(f"error: {error}")


def _finished(error: KeyboardInterrupt) -> str:
    """How far tuning got when it was interrupted."""
    result = getattr(error, "partial_result", None)
    trials = 0 if result is None else len(result.trials)
    return (
        f"{trials} trials had ended. With --storage sqlite:///run.db, `inc-autotune resume run.db` goes on from there."
    )
