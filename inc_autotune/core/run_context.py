"""What the caller of a tuning run says of it beside its arguments, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CalibrationDone(BaseException):  # nobody but who asked for it should catch it
    """The end of a run that was only to calibrate."""


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
        shard: number of this process, and of how many, each of which calibrates on other batches; (0, 1): on all.
        parts: files of the other shards; what this process calibrates is merged with them. Empty: it is not.
        calibrating: called before it calibrates, with the contexts of those who do the other shards; returns what waits
            for them.
        calibrates_only: whether the run ends, with `CalibrationDone`, once it has calibrated.
        begun: called once calibration is over and the study is open, when others may join, with the context that holds
            for them.
    """

    origin: Mapping[str, Any] | None = None
    study_name: str | None = None
    calibration: Path | None = None
    evaluation: str | None = None
    shard: tuple[int, int] = (0, 1)
    parts: tuple[Path, ...] = ()
    calibrating: Callable[[Sequence[RunContext]], Callable[[], object]] | None = None
    calibrates_only: bool = False
    begun: Callable[[RunContext], None] | None = None

    @property
    def is_shard(self) -> bool:
        """Whether other processes calibrate on the other batches."""
        return self.shard[1] > 1

    @property
    def shares_calibration(self) -> bool:
        """Whether what calibration finds is for other processes too."""
        return self.calibration is not None or self.calibrates_only


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
