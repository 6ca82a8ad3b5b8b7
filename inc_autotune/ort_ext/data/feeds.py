"""Turns whatever a user's loader yields into inputs of a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from inc_autotune.graphs import Feed, InputDescription, SampleAxis, labelled, loader_items, unlabelled

ALLOWED_LOADERS = (
    "a DataLoader, a list of batches, a generator, an onnxruntime.quantization.CalibrationDataReader, or any other "
    "iterable"
)


def feeds(
    dataloader: Any,
    inputs: Sequence[InputDescription],
    limit: int | None = None,
    *,
    argument: str = "calib_dataloader",
    axis: SampleAxis | None = None,
) -> Iterator[Feed]:
    """The loader's items as feeds; the loader is read once, and no further than needed.

    Args:
        dataloader: see `ALLOWED_LOADERS`; its items: see `graphs.feeds.unlabelled`. A CalibrationDataReader is rewound
            first where it can be.
        inputs: what the model declares.
        limit: most samples in all; the last batch is cut where the model allows it. None: all there are.
        argument: name of the loader's argument, for messages.
        axis: as in `graphs.feeds.unlabelled`.

    Raises:
        ArgumentError: the loader is not an iterable of batches; at once.
        DataError: while iterating: it is empty, or its items do not fit the model. Exceptions of the loader itself pass
            through.
    """
    return unlabelled(_items(dataloader, argument), inputs, limit, argument, axis=axis)


def labelled_feeds(
    dataloader: Any, inputs: Sequence[InputDescription], *, argument: str = "eval_dataloader"
) -> Iterator[tuple[Feed, Any]]:
    """Feeds with their labels, from (inputs, label), (input, ..., label) or dicts with an entry such as 'labels'.

    Raises:
        ArgumentError: the loader is not an iterable of batches; at once.
        DataError: while iterating: it is empty, an item has no label, or items do not fit the model.
    """
    return labelled(_items(dataloader, argument), inputs, argument)


def _items(loader: Any, argument: str) -> Iterator[Any]:
    """An iterator over the loader; its checks are done at once."""
    if callable(getattr(loader, "get_next", None)):
        return _reader_items(loader)
    return loader_items(loader, argument, ALLOWED_LOADERS)


def _reader_items(reader: Any) -> Iterator[Any]:
    if callable(getattr(reader, "rewind", None)):
        reader.rewind()
    while (item := reader.get_next()) is not None:
        yield item
