"""Which positions of a batch are real, and which are padding whose outputs nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import scores_words, without_common_part
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.outputs import comparable_arrays

PADDING_MASK = "attention_mask"
"""An input of this name with a 1 at real tokens and a 0 at padding."""


def real_positions(feed: Feed) -> Array | None:
    """A bool array [batch, sequence], true at real tokens; None where the model takes no padding mask."""
    mask = feed.inputs.get(PADDING_MASK)
    if mask is None or mask.ndim != 2 or not ((mask == 0) | (mask == 1)).all() or not mask.any():
        return None
    return mask.astype(bool)


def comparable_outputs(feed: Feed, outputs: Iterable[Any]) -> list[Array]:
    """The outputs of one run in which a candidate is compared with the fp32 model.

    Scores of words are read by a softmax: what all words of a position have in common is taken from them.
    """
    numbers = [each for each in feed.inputs.values() if each.dtype.kind in "iu"]
    arrays = [
        without_common_part(each) if scores_words(each.shape, numbers) else each for each in comparable_arrays(outputs)
    ]
    return real_outputs(arrays, real_positions(feed))


def real_outputs(outputs: Iterable[Any], real: Array | None) -> list[Array]:
    """The `comparable_arrays` of a model's outputs, without the rows of padded positions.

    The outputs at padding are never read, and their errors are erratic enough to drown those that matter.
    """
    arrays = comparable_arrays(outputs)
    if real is None:
        return arrays
    return [each[real] if each.shape[:2] == real.shape else each for each in arrays]
