"""The order of a run by several workers: this process leads, calibrates, and calls the others when they can begin."""

from __future__ import annotations

import logging
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from inc_autotune.core.run_context import CalibrationDone, RunContext, run_context, running_in

logger = logging.getLogger(__name__)

T = TypeVar("T")


GRACE = 5.0
"""Seconds in which a helper may notice that the run is over."""


class Helpers(ABC):
    """The workers beside the one that leads."""

    count: int
    """How many they are."""

    @abstractmethod
    def start(self, contexts: Sequence[RunContext]) -> None:
        """Let one of them make the same call in each context, whose files are there as long as they may run."""

    @abstractmethod
    def ended(self, grace: float | None) -> Sequence[str]:
        """Wait for each so many seconds, or, with None, for as long as it takes, and end those that still run.

        Returns:
            What happened to those that had ended badly by themselves, for people.
        """

    def wait(self) -> Sequence[str]:
        """Wait until all have ended; what they say is as in `ended`."""
        return self.ended(None)

    def end(self) -> Sequence[str]:
        """End them: the run is over, and what they still do cannot change its outcome. Returns what `ended` does."""
        return self.ended(GRACE)


def lead(call: Callable[[], T], helpers: Helpers, *, shards: bool = False) -> T:
    """Make a call of `autotune`, and let helpers join its run once it has calibrated.

    Args:
        call: with a storage that the helpers reach too.
        helpers: that make the same call. Whoever of them dies loses its trial alone, which another worker does.
        shards: whether each calibrates on a part of the data.

    Returns:
        What the call returned; notes of its result say what happened to helpers that ended badly.
    """
    with tempfile.TemporaryDirectory(prefix="inc-autotune-") as folder:
        file = Path(folder) / "calibration.safetensors"
        early: list[str] = []

        def calibrating(contexts: Sequence[RunContext]) -> Callable[[], object]:
            helpers.start(contexts)
            return lambda: early.extend(helpers.wait())

        context = replace(
            run_context(),
            calibration=file,
            parts=tuple(Path(folder) / f"part {n}" for n in range(1, helpers.count + 1)) if shards else (),
            calibrating=calibrating,
            begun=lambda found: helpers.start([found] * helpers.count),
        )
        try:
            with running_in(context):
                found = call()
        except BaseException:
            helpers.end()
            raise
        problems = [*early, *helpers.end()]
    for problem in problems:
        logger.warning("%s", problem)
    result = getattr(found, "tuning_result", None)
    if result is not None:
        result.notes = (*result.notes, *problems)
    return found


def join(call: Callable[[], object], context: RunContext) -> None:
    """Make a call of `autotune` as a helper. What it would warn of, the leader does."""
    with warnings.catch_warnings(), running_in(context):
        warnings.simplefilter("ignore")
        with suppress(CalibrationDone):
            call()
