"""Whether the first dimension of an item counts samples, proved by what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic

import array_api_compat
import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray, Array
from inc_autotune.core.data.held_out import HELD_OUT_SAMPLES, AnyBatch

SAME_SAMPLE = 1e-6
"""Relative squared error up to which two outputs are the same: sums in another order make about 1e-12."""

NOT_A_BATCH = (
    "items are one sample each, since rows along their first dimension are not samples that the model computes one by "
    "one: a row alone gives another output than among the others. So sampling sizes count items."
)

Run = Callable[[AnyBatch], Sequence[AnyNamespaceArray] | None]


def is_batch(run: Run[AnyBatch], batch: AnyBatch) -> bool:
    """Whether a batch may be cut: its first sample alone and its last sample alone give their rows of the output.

    One of both is not enough: the first step of a sequence would pass for a causal model, the last step for one that
    runs backwards. Of a large batch the last samples stand for all.

    Outputs that are single numbers, as a loss, and outputs whose other dimensions depend on the batch say nothing; an
    output of one shape whatever the batch must stay what it is. At least one output must show the samples.

    Args:
        run: the fp32 model's outputs, real numbers of any framework; None if the model does not take the batch. It
            leaves the batch and the model as they are.
        batch: `divisible`, of two samples or more.
    """
    part = batch.slice(max(batch.size - HELD_OUT_SAMPLES, 0), batch.size)
    found = []
    for piece in (part.slice(0, 1), part.slice(part.size - 1, part.size), part):
        outputs = run(piece)
        if outputs is None:
            return False
        found.append([_to_numpy(output) for output in outputs])
    first, last, every = found
    return _shows(every, first, part.size, False) and _shows(every, last, part.size, True)


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


def _shows(whole: Sequence[Array], alone: Sequence[Array], size: int, last: bool) -> bool:
    """Whether the outputs of one sample are found among those of `size`, at the end if `last`, else at the start."""
    if len(whole) == size * len(alone) != len(alone):  # a list with the outputs of every sample
        found = whole[-len(alone) :] if last else whole[: len(alone)]
        return all(one.shape == other.shape and _same(one, other) for one, other in zip(found, alone, strict=True))
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
            if not _same(one[-rows:] if last else one[:rows], other):
                return False
            shown = shown or bool(np.isfinite(other).any())
        elif one.shape != other.shape or not _same(one, other):
            return False
    return shown


def _same(expected: Array, actual: Array) -> bool:
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return False
    expected, actual = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
    return bool(np.square(expected - actual).sum() <= SAME_SAMPLE * np.square(expected).sum())


def _to_numpy(array: AnyNamespaceArray) -> Array:
    xp = array_api_compat.array_namespace(array)
    return np.asarray(array_api_compat.to_device(xp.astype(array, xp.float32, copy=False), "cpu"))
