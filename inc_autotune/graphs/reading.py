"""The boundary behind which a model's file may hold anything."""

from __future__ import annotations

from contextlib import AbstractContextManager

from inc_autotune.core.errors import ModelError, foreign_errors_as


def reading_model(remedy: str) -> AbstractContextManager[None]:
    """Turn what a damaged model makes fail inside into an error that says so.

    Args:
        remedy: what to do, a sentence.

    Raises:
        ModelError: something failed that is no error of this library, nor a lack of memory.
    """
    return foreign_errors_as(
        lambda error: ModelError(f"model: cannot be understood: {type(error).__name__}: {error}. {remedy}")
    )
