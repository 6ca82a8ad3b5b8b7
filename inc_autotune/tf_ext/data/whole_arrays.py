"""Arrays with all samples, given as to Keras' `fit`: one for each input, and perhaps one of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inc_autotune.core.data import LABEL_NAMES, is_array
from inc_autotune.graphs import InputDescription


def arrays_by_name(dataset: Any, inputs: Sequence[InputDescription], *, ordered: bool) -> Any:
    """A dict of arrays by name, where the data is a list or tuple that means one; else the data as it is.

    It means one where nothing else fits: `[a, b]` for a model of two inputs, `(x, y)` where `y` is no batch of inputs,
    `([a, b], y)` and `({"a": a, "b": b}, y)`.

    Args:
        dataset: the user's data.
        inputs: what the model declares.
        ordered: whether the order of `inputs` means something.
    """
    if not isinstance(dataset, list | tuple):
        return dataset
    if len(inputs) > 1:
        table = _table(dataset, inputs, ordered=ordered)
        if table is not None:
            return table
    if not isinstance(dataset, tuple) or len(dataset) != 2 or not is_array(dataset[1]):
        return dataset
    given, labels = dataset
    table = _table([given] if is_array(given) else given, inputs, ordered=ordered)
    if table is None or _shape(labels)[:1] != _shape(next(iter(table.values())))[:1]:
        return dataset
    if is_array(given) and _fits(labels, inputs[0]):
        return dataset  # two batches
    names = {each.name for each in inputs}
    return {**table, next(name for name in LABEL_NAMES if name not in names): labels}


def _table(given: Any, inputs: Sequence[InputDescription], *, ordered: bool) -> dict[str, Any] | None:
    """Arrays of all samples by name of the input; None where these are something else."""
    names = [each.name for each in inputs]
    if isinstance(given, Mapping):
        table = dict(given)
    elif isinstance(given, list | tuple) and len(given) == len(inputs) and (ordered or len(inputs) == 1):
        table = dict(zip(names, given, strict=True))
    else:
        return None
    if sorted(table) != sorted(names) or not all(map(is_array, table.values())):
        return None
    samples = {_shape(each)[:1] for each in table.values()}
    return table if len(samples) == 1 and all(_fits(table[each.name], each) for each in inputs) else None


def _fits(array: Any, described: InputDescription) -> bool:
    """Whether an array may be a batch of an input, of any size."""
    if described.shape is None:
        return True
    shape = _shape(array)
    pairs = zip(shape[1:], described.shape[1:], strict=False)
    return len(shape) == len(described.shape) and all(size == wanted or wanted is None for size, wanted in pairs)


def _shape(array: Any) -> tuple[Any, ...]:
    return tuple(array.shape)
