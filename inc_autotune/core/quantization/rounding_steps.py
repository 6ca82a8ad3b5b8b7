"""How far rounded weights are from their nearest integers, as it stands in a recipe."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from inc_autotune.core.errors import RecipeError

_SMALLEST, _LARGEST = 128, 255
"""Of the largest step of a weight that does not fit into 8 bits."""

_LEVEL = 1
"""Of zlib: a higher one takes ten times as long and saves a fifth."""


def pack_steps(steps: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Compress integer differences: about 2 bits a weight, since nearly all are -1, 0 or 1.

    Args:
        steps: integers from -255 to 255, any shape, in C order.

    Returns:
        Bytes: zlib's form of int8, or of little-endian int16 where a step is larger.
    """
    small = bool(np.all(np.abs(steps) <= np.iinfo(np.int8).max))
    return np.frombuffer(zlib.compress(steps.astype("<i1" if small else "<i2").tobytes(), _LEVEL), np.uint8)


def unpack_steps(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
    """Inverse of `pack_steps`, for a weight of a known shape.

    Raises:
        RecipeError: the bytes hold something else, or another number of steps.
    """
    count = int(np.prod(shape, dtype=np.int64))
    decompressor = zlib.decompressobj()
    try:
        # Never more than such a weight can have, whatever a file promises.
        plain = decompressor.decompress(packed.tobytes(), max(2 * count, 1))
    except zlib.error as error:
        raise RecipeError(f"recipe: the rounding of a weight is damaged ({error}). Save the recipe again.") from error
    is_small = len(plain) == count
    steps = np.frombuffer(plain[: len(plain) // 2 * 2 if not is_small else None], "<i1" if is_small else "<i2")
    # Twice as many small ones fill as many bytes as large ones, but no large ones would have been written so.
    is_whole = decompressor.eof and (is_small or (len(plain) == 2 * count and _SMALLEST <= _largest(steps) <= _LARGEST))
    if not is_whole:
        raise RecipeError(
            f"recipe: the rounding of a weight does not fit its {count} elements. Is it the same model, and the recipe "
            "as recipe.save() wrote it?"
        )
    return steps.astype(np.int16).reshape(shape)


def _largest(steps: npt.NDArray[Any]) -> int:
    return int(np.abs(steps.astype(np.int32)).max(initial=0))
