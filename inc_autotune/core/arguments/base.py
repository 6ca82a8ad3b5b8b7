"""Base of the argument models, and the way from pydantic's errors to `ArgumentError`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from inc_autotune.core.arguments import checks
from inc_autotune.core.arguments.checks import CheckError, mapping, shown
from inc_autotune.core.errors import ArgumentError, foreign_errors_as


class ArgumentModel(BaseModel):
    """A dict from the user as a frozen object; unknown keys are errors with a suggestion.

    Attributes:
        allowed: text that lists the keys and what they take.
        renamed: key of Intel Neural Compressor -> our key, for the suggestion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    allowed: ClassVar[str] = ""
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        mapping(data, cls.model_fields, cls.allowed, cls.renamed)
        return dict(data)


def number(allowed: str, **bounds: Any) -> BeforeValidator:
    """For a field that takes a number, see `checks.number`."""
    return BeforeValidator(checks.number(allowed, **bounds))


def one_of(words: tuple[str, ...]) -> BeforeValidator:
    """For a field that takes one of some words."""
    return BeforeValidator(checks.choice(words))


def optional(function: Any) -> BeforeValidator:
    """For a field that takes None, or what a check takes."""
    return BeforeValidator(checks.optional(function))


none_is_empty = BeforeValidator(lambda value: {} if value is None else value)
"""For a field whose dict may be left out as None."""


def argument_error(argument: str, value: object, path: tuple[object, ...], problem: CheckError) -> ArgumentError:
    """The error a user sees: argument, value, where in it, what is wrong, what is allowed."""
    where = "".join(f"{step if str(step).isidentifier() else repr(step)}." for step in path).rstrip(".")
    where = f"{where}: " if where else ""
    return ArgumentError(
        f"{argument}={shown(value)}: {where}{problem.text}.\nAllowed: {problem.allowed}.{problem.hint}"
    )


def reading_argument(argument: str, value: object) -> AbstractContextManager[None]:
    """Turn what an object of the user raises while it is looked at inside, in a `__len__` for example, into an error.

    Raises:
        ArgumentError: it raised, and no error of this library, nor a lack of memory.
    """
    return foreign_errors_as(
        lambda error: ArgumentError(
            f"{argument}={shown(value)}: raises {type(error).__name__} when it is read: {error}.\nAllowed: see the "
            "documentation of the argument."
        )
    )


def first_error(error: ValidationError) -> tuple[tuple[object, ...], CheckError]:
    """Where pydantic found the first problem, and the problem."""
    details = error.errors()[0]
    problem = details.get("ctx", {}).get("error")
    if not isinstance(problem, CheckError):
        problem = CheckError(details["msg"], "see the documentation of autotune")
    return tuple(details["loc"]), problem
