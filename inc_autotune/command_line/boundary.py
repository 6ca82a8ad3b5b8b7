"""Where errors become one line and an exit code."""

from __future__ import annotations

import errno
import functools
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import typer

from inc_autotune.command_line.errors import BAD_USAGE, FAILED, INTERRUPTED, WritingError
from inc_autotune.command_line.output import note, results_alone
from inc_autotune.core.errors import AutotuneError, CalibrationError, EvaluationError, QuantizationError

P = ParamSpec("P")

OPTIONS = {
    "accuracy_criterion": "--goal",
    "approach": "--approach",
    "calib_dataloader": "--data",
    "calib_dataset": "--data",
    "eval_dataloader": "--eval-data",
    "eval_dataset": "--eval-data",
    "eval_func": "--eval",
    "eval_metric": "--metric",
    "max_trials": "--max-trials",
    "objective": "--objective",
    "sampling_sizes": "--samples",
    "seed": "--seed",
    "smoothquant_args": "--alpha",
    "storage": "--storage",
    "strategy": "--strategy",
    "tuning_time": "--tuning-time",
}
"""What gives an argument of the library, whose messages begin with its name."""

_ARGUMENT = re.compile(rf"({'|'.join(OPTIONS)})\b")
_WITHOUT_OPTIONS = ("resume", "workers")
"""Commands that read a run's arguments from where it was kept."""


@dataclass
class Settings:
    """What the options before the command say.

    Args:
        verbose: whether errors show their tracebacks.
    """

    verbose: bool = False


SETTINGS = Settings()


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Make a command of a function that returns its exit code and raises errors of this library.

    What the user's own functions print goes to stderr, so that only results are on stdout.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with results_alone():
                code = function(*args, **kwargs)
        except AutotuneError as error:
            _show(error, _with_option(str(error), function.__name__))
            began = isinstance(error, EvaluationError | CalibrationError | QuantizationError | WritingError)
            raise typer.Exit(FAILED if began else BAD_USAGE) from error
        except KeyboardInterrupt as error:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            if getattr(error, "errno", None) == errno.EPIPE:  # whoever reads has seen enough
                raise
            _show(
                error,
                f"{type(error).__name__}: {error}\nThis was not foreseen. --verbose shows where it happened:"
                f" inc-autotune --verbose {function.__name__} ...",
            )
            raise typer.Exit(FAILED) from error
        raise typer.Exit(code)

    return run


def _with_option(message: str, command: str) -> str:
    """A message of the library with the option in front that gave the argument."""
    found = _ARGUMENT.match(message)
    return message if found is None or command in _WITHOUT_OPTIONS else f"{OPTIONS[found[1]]}: {message}"


def _show(error: Exception, message: str) -> None:
    if SETTINGS.verbose:
        note("".join(traceback.format_exception(error)).rstrip())
    note(f"error: {message}")
