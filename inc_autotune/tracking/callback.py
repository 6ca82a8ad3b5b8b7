"""What the callbacks of all trackers have alike: how they are called, and how they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from inc_autotune.core.result import TuningResult
from inc_autotune.core.search.study import Trial

Self = TypeVar("Self", bound="TrackerCallback")


class TrackerCallback(ABC):
    """An `on_trial` that is closed in the end; `with` does so."""

    @abstractmethod
    def __call__(self, trial: Trial) -> None:
        """Write a trial that has ended."""

    @abstractmethod
    def log_result(self, result: TuningResult) -> None:
        """Write what the tuning came to."""

    @abstractmethod
    def close(self, *, failed: bool = False) -> None:
        """End what is written.

        Args:
            failed: whether the tuning raised an error.
        """

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)
