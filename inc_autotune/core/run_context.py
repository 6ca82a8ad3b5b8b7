"""What the caller of a tuning run says of it beside its arguments, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunContext:
    """Of the runs that begin while it holds.

    Args:
        origin: what started the run, in plain values, to be kept with its study; None: nothing is kept.
        study_name: the study that has to be gone on with: a run of another study is an error. None: any.
        calibration: a file with what calibration found, which is taken where it is there, and else written; None:
            every process calibrates.
        evaluation: the fingerprint of the evaluation, where the caller knows that it is the same though its code was
            sent from elsewhere; None: it is found out.
        begun: called once calibration is over and the study is open, when others may join, with the context that holds
            for them.
    """

    origin: Mapping[str, Any] | None = None
    study_name: str | None = None
    calibration: Path | None = None
    evaluation: str | None = None
    begun: Callable[[RunContext], None] | None = None


_NOTHING_SAID = RunContext()
_CONTEXT: ContextVar[RunContext] = ContextVar("inc_autotune run context")


def run_context() -> RunContext:
    """What holds now, in this thread."""
    return _CONTEXT.get(_NOTHING_SAID)


@contextmanager
def running_in(context: RunContext) -> Iterator[None]:
    """Let a context hold for runs of this thread."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)
