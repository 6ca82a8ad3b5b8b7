"""The boundary behind which a model's file may hold anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inc_autotune.core.errors import AutotuneError, ModelError


@contextmanager
def reading_model(remedy: str) -> Iterator[None]:
    """Turn what a damaged model makes fail inside into an error that says so.

    Args:
        remedy: what to do, a sentence.

    Raises:
        ModelError: something failed that is no error of this library, nor a lack of memory.
    """
    try:
        yield
    except (AutotuneError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"model: cannot be understood: {type(error).__name__}: {error}. {remedy}") from error
