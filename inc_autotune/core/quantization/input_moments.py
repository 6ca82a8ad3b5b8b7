"""Second moments of the inputs of a model, as many as memory allows."""

from __future__ import annotations

from collections.abc import Collection

import array_api_compat
import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.quantization.second_moment import SecondMoment

MOMENT_BYTES = 1 << 30
"""All moments of a model together; inputs that would need more have none, and their weights are rounded to nearest."""

ROWS_OF_A_BATCH = 512
"""Or as many as an input has columns, if that is more: so many rows of each batch, drawn at random, make the moment."""


class InputMoments:
    """Second moments by name of the input.

    Attributes:
        found: the moments.
        refused: names of inputs that have none, since together they would take more than `MOMENT_BYTES`.

    Args:
        seed: of the rows that are drawn.
    """

    def __init__(self, seed: int) -> None:
        self.found: dict[str, SecondMoment] = {}
        self.refused: set[str] = set()
        self._generator = np.random.default_rng(seed)
        self._bytes = 0

    def choose(self, rows: int, columns: int) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        """Which of the rows of a batch to take; None for all."""
        taken = max(ROWS_OF_A_BATCH, columns)
        if rows <= taken:
            return None
        return np.sort(self._generator.choice(rows, taken, replace=False))

    def update(self, name: str, rows: AnyNamespaceArray, groups: int = 1) -> None:
        """Take in rows of one input.

        Args:
            name: of the input.
            rows: [rows, groups * columns]; of more than are wanted, some are drawn.
            groups: see `SecondMoment`.
        """
        moment = self.found.get(name)
        if moment is None:
            if name in self.refused:
                return
            moment = SecondMoment(rows.shape[1] // groups, groups)
            if self._bytes + moment.nbytes > MOMENT_BYTES:
                self.refused.add(name)
                return
            self._bytes += moment.nbytes
            self.found[name] = moment
        chosen = self.choose(rows.shape[0], moment.columns)
        if chosen is not None:
            xp = array_api_compat.array_namespace(rows)
            rows = xp.take(rows, xp.asarray(chosen, device=array_api_compat.device(rows)), axis=0)
        moment.update(rows)


def refused_note(refused: Collection[str]) -> str | None:
    """What the user should know of inputs that have no second moment for want of memory; None without any.

    Args:
        refused: their names.
    """
    if not refused:
        return None
    return (
        f"weights of {len(refused)} inputs are rounded to nearest, since the second moments of all inputs would take "
        f"more than {MOMENT_BYTES >> 20} MiB; the first is {min(refused)!r}"
    )
