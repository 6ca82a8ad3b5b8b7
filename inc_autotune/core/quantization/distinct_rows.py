"""Whether the sampled rows of an activation show how its channels vary, or the same few rows again and again."""

from __future__ import annotations

import numpy as np

from inc_autotune.core.arrays import to_float32
from inc_autotune.core.quantization.statistics import ActivationStatistics

SAME_ROW = 0.05
"""Root mean square, over the channels, of the difference of two rows, in units of each channel's largest value. Rows of
different tokens, pixels or images are 0.2 apart or more; the same token at the same place is below 0.001."""

LEAST_DISTINCT = 16
"""Different rows that are enough to know the range of every single channel, as smoothing must."""


def rows_repeat(statistics: ActivationStatistics) -> bool:
    """Whether most sampled rows are copies of few.

    A generated text may be one token again and again. The range of a tensor is the largest of all its channels, so a
    few rows tell it; the ranges of single channels, from which smoothing scales are made, need many: a channel that was
    small by chance gets a small scale, and every new row is clipped there.

    Args:
        statistics: of the input of a linear operator, with sampled rows.
    """
    if statistics.sampled_rows is None:
        return False
    largest = to_float32(statistics.channel_absmax)
    rows = to_float32(statistics.sampled_rows) / np.where(largest > 0, largest, 1)
    enough = min(LEAST_DISTINCT, len(rows) // 2)
    kept = rows[:1]
    for row in rows[1:]:
        if len(kept) >= enough:
            return False
        if float(np.square(kept - row).mean(axis=1).min()) > SAME_ROW**2:
            kept = np.concatenate([kept, row[None]])
    return len(kept) < enough
