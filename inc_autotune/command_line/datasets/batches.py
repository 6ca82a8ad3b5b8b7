"""Batches of inputs with labels or without, which can be read any number of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import Item
from inc_autotune.core.arrays import Array


@dataclass(frozen=True)
class Batches:
    """Data in batches.

    Args:
        text: as the data was named.
        read: starts reading: pairs of inputs and labels, which are None where there are none.
        samples: how many there are.
        has_labels: whether there are labels.
        assumed: what was assumed about the data, for people.
    """

    text: str
    read: Callable[[], Iterator[tuple[Item, Array | None]]]
    samples: int
    has_labels: bool
    assumed: tuple[str, ...] = ()


class Inputs:
    """The inputs of batches, as calibration takes them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Item]:
        return (inputs for inputs, _ in self._batches.read())


class Labelled:
    """Pairs of inputs and labels, as an evaluation takes them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Item, Array | None]]:
        return self._batches.read()


def inputs_of(data: Batches | Any) -> Any:
    """Data for calibration; what a user's Python object yields is left as it is."""
    return Inputs(data) if isinstance(data, Batches) else data


def labelled(data: Batches | Any, option: str) -> Any:
    """Data for an evaluation.

    Raises:
        UsageError: it has no labels.
    """
    if not isinstance(data, Batches):
        return data
    if not data.has_labels:
        raise UsageError(
            f"{option} {data.text!r}: has no labels, which --metric compares with. Allowed: an .npz with an array "
            "'labels', a folder of images in one folder for each class, a table of texts with a column 'label', or "
            "module:object that yields (inputs, labels)."
        )
    return Labelled(data)
