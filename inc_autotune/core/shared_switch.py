"""What is switched for the whole process, by any number of threads: the first switches, the last puts it back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from threading import Lock
from types import TracebackType


class SharedSwitch:
    """A context manager for a setting of the process.

    Threads whose blocks overlap would each put back what they found, and the last one what another had set.

    Args:
        make: a context manager that sets it and puts it back; it may be left by another thread than entered it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = Lock()
        self._users = 0
        self._open: AbstractContextManager[object] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                opened = self._make()
                opened.__enter__()
                self._open = opened
            self._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                opened, self._open = self._open, None
                assert opened is not None
                opened.__exit__(None, None, None)


class SharedSnapshots:
    """Objects that any number of threads may leave changed: the state before the first is what the last puts back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: dict[Hashable, tuple[int, Callable[[], object]]] = {}

    def hold(self, key: Hashable, take: Callable[[], Callable[[], object]]) -> None:
        """Take a snapshot unless one is held.

        Args:
            key: of the object.
            take: remembers its state; returns what puts that back, and keeps the object alive.
        """
        with self._lock:
            users, restore = self._held.get(key) or (0, take())
            self._held[key] = users + 1, restore

    def release(self, key: Hashable) -> None:
        """Put the state back, if nobody else holds the object."""
        with self._lock:
            users, restore = self._held.pop(key)
            if users > 1:
                self._held[key] = users - 1, restore
            else:
                restore()
