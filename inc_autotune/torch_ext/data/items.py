"""What a data loader may be, and what items of a loader may hold."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from inc_autotune.core.data import check_loader, describe, is_number_list
from inc_autotune.core.errors import DataError
from inc_autotune.torch_ext.data.nested import every_tensor, map_tensors

ALLOWED_ITEMS = (
    "a tensor or numpy array, a tuple or list of inputs, (inputs, label), or a dict of keyword inputs "
    "(a BatchEncoding too), each input a batch with samples along its first dimension"
)
ALLOWED_LOADERS = "a DataLoader, a torch Dataset, a list of batches, a generator, or any other iterable"


def iterable_loader(loader: Any, argument: str) -> Iterable[Any]:
    """The loader as something to iterate over; a torch Dataset becomes batches of one sample.

    Args:
        loader: the user's argument.
        argument: name of the argument, for messages.

    Raises:
        ArgumentError: the loader cannot be iterated over, or would not give batches.
    """
    if isinstance(loader, Dataset) or _is_table(loader):
        return DataLoader(loader, batch_size=1, collate_fn=_collate_samples)
    check_loader(loader, argument, ALLOWED_LOADERS)
    return loader  # type: ignore[no-any-return]


def _is_table(loader: Any) -> bool:
    """A Hugging Face dataset: single samples as dicts of columns."""
    return all(hasattr(loader, name) for name in ("column_names", "__getitem__", "__len__"))


def _collate_samples(samples: list[Any]) -> Any:
    for sample in samples:
        check_item(sample)
    return default_collate(samples)


def check_item(item: Any, argument: str = "The loader") -> None:
    """Refuse what no reading can turn into inputs, with a message that says what is allowed.

    Args:
        item: what the loader yielded.
        argument: the loader's argument, for the message.

    Raises:
        DataError: the item is empty, or is or holds plain numbers, text or objects where tensors are expected.
    """
    first = _first_input(item)
    if first is not None:
        raise DataError(f"{argument} yields {describe(item)}: {first}. Allowed: {ALLOWED_ITEMS}.")


def _first_input(item: Any) -> str | None:
    """What is wrong with the inputs of an item; None when they hold tensors."""
    if isinstance(item, (Tensor, np.ndarray)) or (dataclasses.is_dataclass(item) and not isinstance(item, type)):
        return None
    if isinstance(item, Mapping):
        if not item:
            return "it is empty"
        numbers = [key for key, value in item.items() if is_number_list(value)]
        if numbers:
            return (
                f"{numbers[0]!r} is a list of numbers; convert it to a tensor "
                "(a Hugging Face dataset does so after dataset.set_format('torch'))"
            )
        return None
    if isinstance(item, (tuple, list)):
        if not item:
            return "it is empty"
        if is_number_list(item):
            return "a list of numbers is ambiguous; convert it to a tensor"
        return _first_input(item[0])
    if isinstance(item, str):
        return "text is no model input; tokenize it first, such as tokenizer(texts, return_tensors='pt', padding=True)"
    return f"{type(item).__name__} is no model input"


def to_torch(item: Any, device: torch.device) -> Any:
    """The item with numpy arrays turned into tensors and all tensors on `device`.

    float64 arrays, numpy's default, become float32; tensors keep their dtype.

    Raises:
        DataError: a numpy dtype torch has no counterpart for, or a tensor on the meta device.
    """
    item = _from_numpy(item)
    if all(tensor.device == device for tensor in every_tensor(item)):
        return item
    return map_tensors(item, lambda tensor: _on_device(tensor, device))


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.is_meta:
        raise DataError(f"The loader yields {describe(tensor)} on the meta device, which has no values. Load the data.")
    return tensor.to(device)


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        try:
            return torch.from_numpy(value if value.flags.writeable else value.copy())
        except (TypeError, ValueError) as error:
            raise DataError(f"The loader yields {describe(value)}, which torch cannot take: {error}") from error
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        changed = {key: new for key, item in value.items() if (new := _from_numpy(item)) is not item}
        return _with_entries(value, changed) if changed else value
    if isinstance(value, (tuple, list)):
        items = [_from_numpy(item) for item in value]
        if all(new is item for new, item in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _with_entries(mapping: Mapping[Any, Any], changed: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping of the same class with other values of some keys; a dict where the class takes none."""
    if isinstance(mapping, MutableMapping):
        twin = copy.copy(mapping)
        try:
            for key, value in changed.items():
                twin[key] = value
            return twin
        except (TypeError, ValueError, NotImplementedError):  # as of a mapping with fields of its own
            pass
    return {**mapping, **changed}
