"""A file that runs code where somebody unpickles it."""

from __future__ import annotations

import pickle
from pathlib import Path


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def pickle_bomb(mark: Path) -> bytes:
    """A pickle that makes the file `mark` when it is loaded."""
    return pickle.dumps(_Bomb(mark))
