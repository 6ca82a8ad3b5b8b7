"""The order of a run by several workers: this process leads, calibrates, and calls the others when they can begin."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from inc_autotune.core.run_context import RunContext, run_context, running_in

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Helpers(Protocol):
    """The workers beside the one that leads."""

    def start(self, context: RunContext) -> None:
        """Let them make the same call.

        Args:
            context: that has to hold for them. A file of it is there as long as they may run.
        """

    def end(self) -> Sequence[str]:
        """End them: the run is over, and what they still do cannot change its outcome.

        Returns:
            What happened to those that had ended badly before, for people.
        """


def lead(call: Callable[[], T], helpers: Helpers) -> tuple[T, Sequence[str]]:
    """Make a call of `autotune`, and let helpers join its run once it has calibrated.

    Args:
        call: with a storage that the helpers reach too.
        helpers: that make the same call. Whoever of them dies loses its trial alone, which another worker does.

    Returns:
        What the call returned, and what happened to helpers that ended badly, for people.
    """
    with tempfile.TemporaryDirectory(prefix="inc-autotune-") as folder:
        file = Path(folder) / "calibration.safetensors"
        try:
            with running_in(replace(run_context(), calibration=file, begun=helpers.start)):
                found = call()
        except BaseException:
            helpers.end()
            raise
        problems = helpers.end()
    for problem in problems:
        logger.warning("%s", problem)
    return found, problems


def join(call: Callable[[], object], context: RunContext) -> None:
    """Make a call of `autotune` as a helper. What it would warn of, the leader does."""
    with warnings.catch_warnings(), running_in(context):
        warnings.simplefilter("ignore")
        call()
