"""Warnings of other libraries that a block of ours does not pass on, in any number of threads."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
_USERS: Counter[tuple[type[Warning], str]] = Counter()
_MARK = "(?#inc_autotune)"
"""A comment of the regular expression, which tells our filters from equal ones of the user's."""


@contextmanager
def ignored_warnings(category: type[Warning], message: str = "") -> Iterator[None]:
    """Ignore a kind of warning inside the block, in every thread, and leave all other filters alone.

    `warnings.catch_warnings` puts back the filters that it found: blocks of two threads, even about different warnings,
    would leave one filter for ever, and drop those that the user's code, or a library that it imports, sets meanwhile.

    Args:
        category: the warnings' class.
        message: regular expression that their text begins with.
    """
    key = category, message
    with _LOCK:
        if not _USERS[key]:
            warnings.filterwarnings("ignore", _MARK + message, category)
        _USERS[key] += 1
    try:
        yield
    finally:
        with _LOCK:
            _USERS[key] -= 1
            if not _USERS[key]:
                del _USERS[key]
                _remove(category, _MARK + message)


def _remove(category: type[Warning], message: str) -> None:
    ours = ("ignore", re.compile(message, re.IGNORECASE), category, None, 0)
    if ours in warnings.filters:
        warnings.filters.remove(ours)  # type: ignore[attr-defined]
