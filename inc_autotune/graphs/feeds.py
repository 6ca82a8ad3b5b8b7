"""Turns the items of a loader into the named inputs of a model that declares them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from inc_autotune.core.data import LABEL_NAMES, Reading, check_loader, describe, is_array, no_item
from inc_autotune.core.errors import DataError
from inc_autotune.graphs.feed import Feed, InputDescription, named_feed, positional_feed
from inc_autotune.graphs.samples import SampleAxis, spread

logger = logging.getLogger(__name__)

ALLOWED_ITEMS = (
    "a dict by input name, a tuple or list in the order of the model's inputs, an array or tensor where there is one "
    "input, or (inputs, label); each input with samples along its first dimension"
)


def loader_items(loader: Any, argument: str, allowed: str) -> Iterator[Any]:
    """An iterator over a loader, checked at once.

    Args:
        loader: the user's argument.
        argument: its name, for messages.
        allowed: what it may be, for messages.

    Raises:
        ArgumentError: it cannot be iterated over, or is a single item.
    """
    check_loader(loader, argument, allowed)
    if hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
        return iter(loader)
    return (loader[index] for index in range(len(loader)))  # a torch Dataset does not end by itself


def unlabelled(
    items: Iterator[Any],
    inputs: Sequence[InputDescription],
    limit: int | None,
    argument: str,
    *,
    ordered: bool = True,
    axis: SampleAxis | None = None,
) -> Iterator[Feed]:
    """The items as feeds, read no further than needed.

    Which part of an item is input is decided on the first one:

    - a dict: all entries but those with a label's name that the model has no input for;
    - a tuple or list with as many elements as the model has inputs: those; with one more: the last is a label;
    - two elements, the first of which is a dict, tuple or list: (inputs, label).

    Args:
        items: what the loader yields.
        inputs: what the model declares.
        limit: most samples in all; the last batch is cut where the model allows it. Where the first item alone has as
            many, they are taken from several items, see `spread`. None: all there are.
        argument: name of the loader's argument, for messages.
        ordered: whether the order of `inputs` means something, so that several may be given by position.
        axis: finds out what of an item is a sample. None: what the declared shapes say.

    Raises:
        DataError: while iterating: there is no item, or items do not fit the model. Exceptions of the loader itself
            pass through.
    """
    read = (feed for feed, _ in _read(items, inputs, argument, ordered, need_label=False))
    feeds = read if axis is None else map(axis.checked, read)
    if limit is None:
        yield from feeds
        return
    first = next(feeds)
    if first.divisible and first.size >= limit > 1:
        yield from (spread if axis is None else axis.spread)(first, feeds, limit)
        return
    seen = 0
    for feed in chain([first], feeds):
        feed = feed.take(limit - seen)
        seen += feed.size
        yield feed
        if seen >= limit:
            return


def labelled(
    items: Iterator[Any], inputs: Sequence[InputDescription], argument: str, *, ordered: bool = True
) -> Iterator[tuple[Feed, Any]]:
    """Feeds with their labels, from (inputs, label), (input, ..., label) or dicts with an entry such as 'labels'.

    The label of a single sample gets a batch dimension too.

    Raises:
        DataError: while iterating: there is no item, one has no label, or items do not fit the model.
    """
    for feed, label in _read(items, inputs, argument, ordered, need_label=True):
        yield feed, np.asarray(label)[None] if feed.single else label


def _read(
    items: Iterator[Any], inputs: Sequence[InputDescription], argument: str, ordered: bool, *, need_label: bool
) -> Iterator[tuple[Feed, Any]]:
    reading: Reading | None = None
    for item in items:
        if reading is None:
            reading = _choose_reading(item, inputs, argument, ordered, need_label)
            logger.debug("%s: items are read as %s", argument, reading)
        try:
            args, kwargs, label = reading.parse(item)
        except (TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{argument} yields items of different forms: the first ones were {reading}, then came "
                f"{describe(item)}. Give all items the same form."
            ) from error
        if need_label and label is None:
            raise DataError(f"{argument} yields an item without a label. Allowed: (inputs, label), or a dict with one.")
        named = reading.form == "keywords"
        yield named_feed(kwargs, inputs, argument) if named else positional_feed(args, inputs, argument), label
    if reading is None:
        raise no_item(argument)


def _choose_reading(
    item: Any, inputs: Sequence[InputDescription], argument: str, ordered: bool, need_label: bool
) -> Reading:
    """The reading that the form of the first item and the number of inputs imply."""
    reading = possible_reading(item, inputs)
    listed = "; ".join(map(str, inputs))
    if reading is None:
        raise DataError(
            f"{argument} yields {describe(item)}, which does not fit the model's {len(inputs)} inputs: {listed}. "
            f"Allowed: {ALLOWED_ITEMS}."
        )
    if reading.form == "elements" and len(inputs) > 1 and not ordered:
        raise DataError(
            f"{argument} yields {describe(item)}, several inputs by position, but this model only knows the names of "
            f"its inputs and no order: {listed}. Give dicts by name."
        )
    if need_label and not reading.labelled and not reading.dropped:
        raise DataError(
            f"{argument} yields {describe(item)}, read as {reading}: there is no label. Allowed: (inputs, label), or a "
            "dict with a key such as 'labels'."
        )
    return reading


def possible_reading(item: Any, inputs: Sequence[InputDescription]) -> Reading | None:
    """How an item is to be taken apart, by its form and the number of inputs; None where it does not fit."""
    if isinstance(item, Mapping):
        return Reading("keywords", dropped=_label_keys(item, inputs))
    if not isinstance(item, (tuple, list)):
        return Reading("single") if is_array(item) and len(inputs) == 1 else None
    nested = bool(item) and isinstance(item[0], (Mapping, tuple, list))
    if nested and len(item) <= 2:
        labelled = len(item) == 2
        if isinstance(item[0], Mapping):
            return Reading("keywords", labelled, not labelled, _label_keys(item[0], inputs))
        return Reading("elements", labelled, not labelled)
    if nested or len(item) not in (len(inputs), len(inputs) + 1):
        return None
    if len(item) == len(inputs):
        return Reading("elements")
    return Reading("single" if len(inputs) == 1 else "elements", labelled=True)


def _label_keys(item: Mapping[str, Any], inputs: Sequence[InputDescription]) -> frozenset[str]:
    """Entries with a label's name that are no inputs of the model."""
    names = {each.name for each in inputs}
    return frozenset(key for key in item if key in LABEL_NAMES and key not in names)
