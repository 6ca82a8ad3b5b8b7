"""Every error the library raises on purpose, under one root."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class AutotuneError(Exception):
    """Root of all errors raised by inc_autotune."""


class ArgumentError(AutotuneError, ValueError):
    """An argument has a wrong type, key or value."""


class UnknownArgumentError(ArgumentError, TypeError):
    """There is no argument of this name; a TypeError too, as Python raises it."""


class CapabilityError(AutotuneError, ValueError):
    """The framework YAML is malformed, or an option was asked for that it does not offer."""


class ModelError(AutotuneError, ValueError):
    """The model cannot be tuned as it is: train mode, meta device, already quantized, nothing quantizable."""


class DataError(AutotuneError, ValueError):
    """The calibration or evaluation data is empty or does not fit the model."""


class CalibrationError(AutotuneError, RuntimeError):
    """Calibration met values it cannot use, such as NaN in an activation."""


class QuantizationError(AutotuneError, RuntimeError):
    """A quantized candidate could not be built or run."""


class RecipeError(AutotuneError, ValueError):
    """A recipe file is malformed or does not fit the model."""


class MissingDependencyError(AutotuneError, ImportError):
    """An optional dependency is not installed; the message names the pip extra."""


class StorageError(AutotuneError, RuntimeError):
    """The database that keeps the trials failed during a run, and stayed away. The same call goes on once it works."""


class EvaluationError(AutotuneError, RuntimeError):
    """The user's evaluation raised, or returned something that is not a number.

    Attributes:
        partial_result: a `TuningResult` with every finished trial and the best model so far
            (`partial_result.model`), or None when no candidate was finished.
    """

    def __init__(self, message: str, partial_result: Any = None) -> None:
        super().__init__(message)
        self.partial_result = partial_result


class NonFiniteScoreError(EvaluationError):
    """The user's evaluation gave NaN or infinity. For a candidate that is a failed trial, not the end of the run.

    Attributes:
        found: what was found, in short, such as `the score is inf`.
    """

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


class TrainingError(EvaluationError):
    """The user's `train_func` raised, or left a model that cannot be used.

    Attributes:
        partial_result: as in `EvaluationError`.
        student: the model as `train_func` left it, in the framework's form; None if there is none.
    """

    def __init__(self, message: str, partial_result: Any = None, student: Any = None) -> None:
        super().__init__(message, partial_result)
        self.student = student


class TuningInterrupted(KeyboardInterrupt):
    """The user interrupted the search.

    Attributes:
        partial_result: as in `EvaluationError`.
    """

    def __init__(self, partial_result: Any) -> None:
        super().__init__("The finished trials and the best model so far are in this exception's .partial_result.")
        self.partial_result = partial_result


@contextmanager
def foreign_errors_as(make: Callable[[Exception], AutotuneError]) -> Iterator[None]:
    """Turn what others raise inside into an error of this library; its own, and a lack of memory, pass.

    Args:
        make: the error that is raised instead, from the one that it is given.
    """
    try:
        yield
    except (AutotuneError, MemoryError):
        raise
    except Exception as error:
        raise make(error) from error


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """A hint such as ` Did you mean 'relative'?`, or an empty string when nothing is close, or it is no word."""
    close = get_close_matches(word, list(allowed), n=1, cutoff=0.6) if isinstance(word, str) else ()
    return f" Did you mean {close[0]!r}?" if close else ""
