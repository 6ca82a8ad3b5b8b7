"""What of a graph's outputs can be compared with those of another graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array

BLIND = (
    "the model returns no numbers, so candidates could not be compared with fp32: what is tried first, and what falls "
    "back first, is not ordered by harm. Give a model that returns scores too"
)
ONLY_INTEGERS = (
    "the model returns integers only, which show an error where they flip and nowhere else: what falls back first is "
    "ordered by that. Give a model that returns scores too"
)

_HALF = ("float16", "bfloat16")


def comparable_arrays(outputs: Iterable[Any]) -> list[Array]:
    """The arrays in which two graphs are compared, in order.

    Floats, those of half precision as float32; without any, integers as float32, which beside floats follow from these,
    as labels do from scores. Sequences are taken apart, and maps from labels to scores become arrays in the order of
    their labels.
    """
    numbers = list(_numbers(outputs))
    floats = [each for each in numbers if each.dtype.kind == "f"]
    return floats or [each.astype(np.float32) for each in numbers]


def comparison_note(outputs: Iterable[Any]) -> str | None:
    """What the user should know of how candidates are compared by such outputs."""
    kinds = {each.dtype.kind for each in _numbers(outputs)}
    if "f" in kinds:
        return None
    return ONLY_INTEGERS if kinds else BLIND


def _numbers(outputs: Iterable[Any]) -> Iterator[Array]:
    for each in outputs:
        if isinstance(each, np.ndarray | np.generic):
            if each.dtype.name in _HALF:  # in which squares overflow; the kind of bfloat16 is that of raw bytes
                yield np.asarray(each).astype(np.float32)
            elif each.dtype.kind in "fiub":
                yield np.asarray(each)
        elif isinstance(each, Mapping):
            yield from _numbers([np.array([each[key] for key in sorted(each)])])
        elif isinstance(each, list | tuple):
            yield from _numbers(each)
        elif isinstance(each, float | int):
            yield np.array(each)
