"""Progress bars and the clock of a tuning run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without the thread that refreshes bars, which tqdm starts even for one that is not shown."""

    monitor_interval = 0


class Phases:
    """Times the phases of a run and shows a bar for each.

    Args:
        show: whether bars are shown, where the output is a terminal.
        limit: seconds the whole run may take; 0: no limit.
        clock: monotonic seconds.
    """

    def __init__(self, *, show: bool, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._show = show
        self._clock = clock
        self._limit = limit
        self._deadline = clock() + limit if limit > 0 else None

    def expired(self) -> bool:
        """Whether the time limit has passed."""
        return self._deadline is not None and self._clock() >= self._deadline

    def stopwatch(self) -> Callable[[], bool]:
        """Tells from now on whether one step alone has taken as long as the whole run may."""
        started = self._clock()
        return lambda: self._limit > 0 and self._clock() - started >= self._limit

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[[], object]]:
        """Time a phase; yields the function that advances its bar by one."""
        started = self._clock()
        with _Bar(total=total, desc=name, disable=None if self._show else True, leave=False, miniters=1) as bar:
            try:
                yield lambda: bar.update(1)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started
