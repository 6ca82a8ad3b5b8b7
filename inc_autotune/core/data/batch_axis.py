"""Whether the first dimension of an item counts samples, proved by what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic

import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray, Array, to_float32
from inc_autotune.core.data.held_out import HELD_OUT_SAMPLES, AnyBatch

SAME_SAMPLE = 1e-6
"""Relative squared error up to which two outputs are the same: sums in another order make about 1e-12."""

RANDOM_SAMPLE = 4
"""How many times the error between two runs a sample alone may have, in a model that draws random numbers."""

NOT_A_BATCH = (
    "an item counts as one sample, since the rows along its first dimension are no samples by themselves: the model "
    "returns something else for a row alone, or does not take it"
)

Run = Callable[[AnyBatch], Sequence[AnyNamespaceArray] | None]


def is_batch(run: Run[AnyBatch], batch: AnyBatch) -> bool:
    """Whether a batch may be cut: its first sample alone and its last sample alone give their rows of the output.

    One of both is not enough: the first step of a sequence would pass for a causal model, the last step for one that
    runs backwards. Of a large batch the last samples stand for all.

    Outputs that are single numbers, as a loss, and outputs whose other dimensions depend on the batch say nothing; an
    output of one shape whatever the batch must stay what it is. At least one output must show the samples. A row alone
    may differ as two runs do, where a model draws random numbers.

    Args:
        run: the fp32 model's outputs, real numbers of any framework; None if the model does not take the batch. It
            leaves the batch and the model as they are, and draws new random numbers in each run.
        batch: `divisible`, of two samples or more.
    """
    part = batch.slice(max(batch.size - HELD_OUT_SAMPLES, 0), batch.size)
    found = []
    for start, stop in ((0, 1), (part.size - 1, part.size), (0, part.size)):
        outputs = run(part.slice(start, stop))
        if outputs is None:
            return False
        found.append([to_float32(output) for output in outputs])
    first, last, every = found

    def proved(tolerance: float) -> bool:
        return _shows(every, first, part.size, False, tolerance) and _shows(every, last, part.size, True, tolerance)

    if proved(SAME_SAMPLE):
        return True
    again = [to_float32(output) for output in run(part) or ()]
    drawn = max((_error(one, other) for one, other in zip(every, again, strict=False)), default=0.0)
    return drawn > SAME_SAMPLE and proved(RANDOM_SAMPLE * drawn)


class BatchAxis(Generic[AnyBatch]):
    """Takes for one sample what is no batch; proves it once for each form of a batch.

    Args:
        run: as in `is_batch`.
        whole: the same inputs as one sample, never to be cut.
        form: equal for batches of which one stands for all, such as those with the same inputs.
    """

    def __init__(
        self,
        run: Run[AnyBatch],
        whole: Callable[[AnyBatch], AnyBatch],
        form: Callable[[AnyBatch], Hashable] = lambda batch: None,
    ) -> None:
        self._run = run
        self._whole = whole
        self._form = form
        self._proved: dict[Hashable, bool] = {}

    @property
    def notes(self) -> list[str]:
        """A note if some batch was none."""
        return [] if all(self._proved.values()) else [NOT_A_BATCH]

    def checked(self, batch: AnyBatch) -> AnyBatch:
        """The batch if it may be cut, or has one sample, else the batch as one sample."""
        if not batch.divisible or batch.size < 2:
            return batch
        form = self._form(batch)
        if form not in self._proved:
            self._proved[form] = is_batch(self._run, batch)
        return batch if self._proved[form] else self._whole(batch)


def _shows(whole: Sequence[Array], alone: Sequence[Array], size: int, last: bool, tolerance: float) -> bool:
    """Whether the outputs of one sample are found among those of `size`, at the end if `last`, else at the start."""
    if len(whole) == size * len(alone) != len(alone):  # a list with the outputs of every sample
        found = whole[-len(alone) :] if last else whole[: len(alone)]
        return all(
            one.shape == other.shape and _same(one, other, tolerance) for one, other in zip(found, alone, strict=True)
        )
    if len(whole) != len(alone):
        return False
    shown = False
    for one, other in zip(whole, alone, strict=True):
        if one.ndim > 0 and other.shape == one.shape[1:]:  # the model squeezes a dimension of one away
            other = other[None]
        if one.ndim == 0 or one.shape[1:] != other.shape[1:]:
            continue
        rows = other.shape[0]
        if rows and one.shape[0] == rows * size:
            if not _same(one[-rows:] if last else one[:rows], other, tolerance):
                return False
            shown = shown or bool(np.isfinite(other).any())
        elif one.shape != other.shape or not _same(one, other, tolerance):
            return False
    return shown


def _same(expected: Array, actual: Array, tolerance: float) -> bool:
    return _error(expected, actual) <= tolerance


def _error(expected: Array, actual: Array) -> float:
    """Relative squared error; infinite where shapes differ, or the places of what is not finite."""
    finite = np.isfinite(expected)
    if expected.shape != actual.shape or not np.array_equal(finite, np.isfinite(actual)):
        return float("inf")
    expected, actual = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
    error, size = float(np.square(expected - actual).sum()), float(np.square(expected).sum())
    return error / size if size else (float("inf") if error else 0.0)
