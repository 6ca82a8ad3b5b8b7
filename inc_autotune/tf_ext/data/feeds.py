"""Turns whatever a user's data may be into inputs of a signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import describe, is_array
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.graphs import (
    Feed,
    InputDescription,
    SampleAxis,
    labelled,
    loader_items,
    possible_reading,
    to_numpy,
    unlabelled,
)
from inc_autotune.tf_ext.data.whole_arrays import arrays_by_name
from inc_autotune.tf_ext.graph import SignatureGraph

ALLOWED_DATA = (
    "a tf.data.Dataset, an array, a dict of arrays by input name or a list of one array for each input, with samples "
    "along the first dimension, arrays and labels (x, y), a list of batches or samples, a generator, a torch "
    "DataLoader, or any other iterable"
)

BATCH_SIZE = 32
"""Of arrays and of datasets of single samples, where the signature leaves it open."""


def feeds(
    dataset: Any,
    signature: SignatureGraph,
    limit: int | None = None,
    *,
    argument: str = "calib_dataset",
    axis: SampleAxis | None = None,
) -> Iterator[Feed]:
    """The data as feeds of a signature; it is read once, and no further than needed.

    Items may be batches or single samples, which the rank tells: `graphs.feeds.unlabelled` says which forms they may
    have. Labels are left out.

    Args:
        dataset: see `ALLOWED_DATA`.
        signature: what the data is for.
        limit: most samples in all; the last batch is cut where the signature allows it. None: all there are.
        argument: name of the data's argument, for messages.
        axis: as in `graphs.feeds.unlabelled`.

    Raises:
        ArgumentError: the data is none of these; at once.
        DataError: while iterating: it is empty, or does not fit. Exceptions of the data itself pass through.
    """
    inputs = declared_inputs(signature)
    dataset = arrays_by_name(dataset, inputs, ordered=signature.ordered)
    items = _items(dataset, inputs, argument)
    return unlabelled(items, inputs, limit, argument, ordered=signature.ordered, axis=axis)


def labelled_feeds(
    dataset: Any, signature: SignatureGraph, *, argument: str = "eval_dataset"
) -> Iterator[tuple[Feed, Any]]:
    """Feeds with their labels, from (inputs, label), (input, ..., label) or dicts with an entry such as 'labels'.

    Raises:
        ArgumentError: the data is not of a form that `feeds` takes, or never ends; at once.
        DataError: while iterating: it is empty, an item has no label, or items do not fit.
    """
    if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError(f"{argument} repeats without end. Leave out repeat(), or limit it with take(n).")
    inputs = declared_inputs(signature)
    dataset = arrays_by_name(dataset, inputs, ordered=signature.ordered)
    return labelled(_items(dataset, inputs, argument), inputs, argument, ordered=signature.ordered)


def declared_inputs(signature: SignatureGraph) -> tuple[InputDescription, ...]:
    """The inputs of a signature, as the core describes them."""
    return tuple(
        InputDescription(each.name, np.dtype(each.dtype.as_numpy_dtype), each.shape) for each in signature.inputs
    )


def _items(dataset: Any, inputs: Sequence[InputDescription], argument: str) -> Iterator[Any]:
    """An iterator over the items; its checks are done at once."""
    if isinstance(dataset, tf.data.Dataset):
        _check_dense(dataset.element_spec, argument)
        return _batched(dataset, inputs).as_numpy_iterator()  # type: ignore[no-any-return]
    if is_array(dataset):
        return _array_items(dataset, inputs, argument)
    if isinstance(dataset, Mapping) and dataset and all(is_array(value) for value in dataset.values()):
        return _table_items(dataset, inputs, argument)
    return _dense(loader_items(dataset, argument, ALLOWED_DATA), argument)


def _batched(dataset: Any, inputs: Sequence[InputDescription]) -> Any:
    """A dataset of single samples in batches, where these can be made: running samples one by one is slow."""
    reading = possible_reading(dataset.element_spec, inputs)
    if reading is None:
        return dataset
    args, kwargs, _ = reading.parse(dataset.element_spec)
    specs = dict(zip((each.name for each in inputs), args, strict=False)) | kwargs
    samples = all(
        each.shape and each.name in specs and specs[each.name].shape.rank == len(each.shape) - 1 for each in inputs
    )
    equal = all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(dataset.element_spec))
    free = all(each.shape and not isinstance(each.shape[0], int) for each in inputs)
    return dataset.batch(BATCH_SIZE) if samples and equal and free else dataset


def _array_items(array: Any, inputs: Sequence[InputDescription], argument: str) -> Iterator[Any]:
    """Batches of an array of samples; the parts of an array of batches."""
    _check_dense(array, argument)
    values = to_numpy(array)
    if len(inputs) != 1:
        raise DataError(
            f"{argument} is {describe(array)}, one array, but the model has {len(inputs)} inputs: "
            f"{'; '.join(map(str, inputs))}. Give a dict of arrays by name."
        )
    shape = inputs[0].shape
    if shape is None or values.ndim == len(shape):
        return (part[inputs[0].name] for part in _slices({inputs[0].name: values}, inputs))
    return iter(values) if values.ndim > len(shape) else iter([values])


def _table_items(table: Mapping[str, Any], inputs: Sequence[InputDescription], argument: str) -> Iterator[Any]:
    """Batches of arrays with the same number of samples."""
    for value in table.values():
        _check_dense(value, argument)
    values = {key: to_numpy(value) for key, value in table.items()}
    if len({value.shape[:1] for value in values.values()}) > 1 or not all(value.ndim for value in values.values()):
        raise DataError(f"{argument} is {describe(table)}: its arrays differ in their number of samples.")
    return _slices(values, inputs)


def _slices(table: Mapping[str, Array], inputs: Sequence[InputDescription]) -> Iterator[dict[str, Array]]:
    fixed = [each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], int)]
    step = next(iter(fixed), BATCH_SIZE)
    for start in range(0, len(next(iter(table.values()))), step):
        yield {key: value[start : start + step] for key, value in table.items()}


def _dense(items: Iterator[Any], argument: str) -> Iterator[Any]:
    for item in items:
        _check_dense(item, argument)
        yield item


def _check_dense(item: Any, argument: str) -> None:
    """Refuse ragged and sparse tensors, and their types."""
    for leaf in tf.nest.flatten(item):
        if isinstance(leaf, tf.RaggedTensor | tf.RaggedTensorSpec):
            raise DataError(f"{argument} yields ragged tensors. Pad them: tensor.to_tensor(), or padded_batch().")
        if isinstance(leaf, tf.SparseTensor | tf.SparseTensorSpec):
            raise DataError(f"{argument} yields sparse tensors. Make them dense: tf.sparse.to_dense(tensor).")
