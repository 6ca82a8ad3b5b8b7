"""Turns whatever a user's loader yields into calls of the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.data import BatchAxis, Reading, describe, no_item
from inc_autotune.core.errors import AutotuneError, DataError
from inc_autotune.torch_ext.data.batch import Batch, call, run
from inc_autotune.torch_ext.data.items import ALLOWED_ITEMS, check_item, iterable_loader, to_torch
from inc_autotune.torch_ext.data.outputs import output_tensors
from inc_autotune.torch_ext.data.readings import possible_readings, signature_text, unknown_keys
from inc_autotune.torch_ext.model.untouched import untouched

logger = logging.getLogger(__name__)


def batch_axis(model: nn.Module) -> BatchAxis[Batch]:
    """Finds out which batches can be cut into samples.

    Args:
        model: in evaluation mode; stays as it is.
    """
    seeds = count()

    def run_untouched(batch: Batch) -> list[Tensor] | None:
        try:
            with untouched(model):
                torch.manual_seed(next(seeds))  # undone on leaving
                return output_tensors(run(model, batch))
        except (AutotuneError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # whatever a model raises on a part of a batch that has no parts
            return None

    return BatchAxis(run_untouched, Batch.whole, lambda batch: batch.form)


def model_device(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU if the model has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def calibration_batches(
    dataloader: Any,
    model: nn.Module,
    limit: int | None = None,
    *,
    argument: str = "calib_dataloader",
    axis: BatchAxis[Batch] | None = None,
) -> Iterator[Batch]:
    """The loader's items as batches on the model's device; the loader is read once, and no further than needed.

    Which part of an item is input is decided on the first item (see `possible_readings`): the model runs on the first
    sample, and if that fails the next possible reading is tried. What cannot be cut into samples is one.

    Args:
        dataloader: a DataLoader, a torch or Hugging Face dataset (single samples), a list, a generator or any other
            iterable of batches.
        model: in evaluation mode; stays as it is.
        limit: most samples in all; the last batch is cut. None: all samples.
        argument: name of the loader's argument, for messages.
        axis: what finds out whether batches can be cut; None: `batch_axis` of the model.

    Raises:
        ArgumentError: the loader is not an iterable of batches; at once.
        DataError: while iterating: the loader is empty, or items do not fit the model. Exceptions of the loader pass
            through.
    """
    loader = iterable_loader(dataloader, argument)
    axis = axis or batch_axis(model)
    return _limited((axis.checked(batch) for batch, _ in _batches(loader, model, argument)), limit)


def labelled_batches(
    dataloader: Any, model: nn.Module, reading: Reading | None = None, *, argument: str = "eval_dataloader"
) -> Iterator[tuple[Batch, Any, Reading]]:
    """Batches with labels, and the reading in use, to be passed in again for another model.

    Raises:
        ArgumentError: the loader is not an iterable of batches; at once.
        DataError: while iterating: the loader is empty, an item has no label, or items do not fit the model.
    """
    loader = iterable_loader(dataloader, argument)
    return _labelled(loader, model, reading, argument)


def example_batch(example_inputs: Any, model: nn.Module, *, argument: str = "example_inputs") -> Batch:
    """The user's example inputs, in any form that a loader's item may have, as a batch.

    Raises:
        DataError: the model does not accept the inputs, or they hold no sample.
    """
    batch = next(_batches([example_inputs], model, argument))[0]
    if batch.size == 0:
        raise DataError(f"{argument} yields a batch without samples: {describe(example_inputs)}. Give at least one.")
    return batch


def _limited(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    seen = 0
    for batch in batches:
        batch = batch if limit is None else batch.take(limit - seen)
        seen += batch.size
        yield batch
        if limit is not None and seen >= limit:
            return


def _batches(
    loader: Iterable[Any], model: nn.Module, argument: str, reading: Reading | None = None, need_label: bool = False
) -> Iterator[tuple[Batch, tuple[Any, Reading]]]:
    device = model_device(model)
    empty = True
    for raw in loader:
        empty = False
        check_item(raw, argument)
        item = to_torch(raw, device)
        if reading is None:
            reading = _choose_reading(item, model, argument, need_label)
        try:
            args, kwargs, label = reading.parse(item)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{argument} yields items of different forms: the first ones were {reading}, then came "
                f"{describe(item)}. Give all items the same form."
            ) from error
        yield Batch.of(args, kwargs), (label, reading)
    if empty:
        raise no_item(argument)


def _labelled(
    loader: Iterable[Any], model: nn.Module, reading: Reading | None, argument: str
) -> Iterator[tuple[Batch, Any, Reading]]:
    for batch, (label, used) in _batches(loader, model, argument, reading, need_label=True):
        if label is None:
            raise DataError(f"{argument} yields an item without a label. Allowed: (inputs, label), or a dict with one.")
        yield batch, label, used


def _choose_reading(item: Any, model: nn.Module, argument: str, need_label: bool) -> Reading:
    """The first possible reading on which the model runs."""
    readings = possible_readings(item, model, need_label=need_label)
    failures: dict[Reading, Exception] = {}
    for whole in (False, True):
        for reading in readings:
            args, kwargs, _ = reading.parse(item)
            batch = Batch.of(args, kwargs)
            error = _failure(model, batch if whole else batch.take(1))
            if error is None:
                logger.debug("%s: items are read as %s", argument, reading)
                return reading
            failures[reading] = error
    raise _mismatch(item, model, argument, failures, need_label) from next(iter(failures.values()), None)


def _failure(model: nn.Module, batch: Batch) -> Exception | None:
    try:
        inputs = batch.copy()
        with untouched(model):
            call(model, inputs)
    except (AutotuneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises on inputs that do not fit
        return error
    return None


def _mismatch(
    item: Any, model: nn.Module, argument: str, failures: dict[Reading, Exception], need_label: bool
) -> DataError:
    lines = [
        f"{argument} yields items that the model does not accept.",
        f"The model accepts: {signature_text(model)}",
        f"The loader yields: {describe(item)}",
    ]
    unknown = unknown_keys(item, model)
    lines += [unknown] if unknown else []
    lines += [f"Read as {reading}: {type(error).__name__}: {error}" for reading, error in failures.items()]
    if need_label and not failures:
        lines.append("Evaluation needs a label in each item: (inputs, label), or a dict with a key such as 'labels'.")
    lines.append(f"Allowed: {ALLOWED_ITEMS}.")
    return DataError("\n".join(lines))
