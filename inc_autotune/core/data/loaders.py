"""What a data loader may be and what its items look like, for any framework's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, DataError


def is_array(value: object) -> bool:
    """Whether a value is an array or tensor of some framework: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_one_shot(loader: object) -> bool:
    """Whether the loader can be read only once, as a generator."""
    return isinstance(loader, Iterator)


def is_number_list(value: object) -> bool:
    """Whether a value is a list of numbers, also a nested one."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
        if isinstance(value, (bool, int, float)):
            return True
    return False


def check_loader(loader: Any, argument: str, allowed: str) -> None:
    """Refuse what cannot be iterated over, or is a single item.

    Args:
        loader: the user's argument.
        argument: name of the argument, for messages.
        allowed: what the argument may be, for messages.

    Raises:
        ArgumentError: `loader` is a single array, dict or text, a function, or not iterable.
    """
    if is_array(loader) or isinstance(loader, (Mapping, str, bytes)):
        hint = " Put it into a list to give a single batch." if not isinstance(loader, (str, bytes)) else ""
        raise ArgumentError(f"{argument} is {describe(loader)}, one object. Allowed: {allowed}.{hint}")
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        hint = (
            " A function that scores a model goes to eval_func=, in torch_ext one that runs it on data to calib_func=; "
            "call a function that makes a generator, and pass what it returns."
            if callable(loader)
            else ""
        )
        raise ArgumentError(f"{argument}={shown(loader)} cannot be iterated over. Allowed: {allowed}.{hint}")


def no_sample(argument: str) -> DataError:
    """The error for a loader whose batches hold no sample."""
    return DataError(f"{argument} is empty: it yielded no sample. Give at least one batch.")


def no_item(argument: str) -> DataError:
    """The error for a loader that ended before its first item."""
    return DataError(
        f"{argument} is empty: it yielded no item. Give at least one batch; a generator that was read before cannot be "
        "read again."
    )


def model_fails(argument: str, batch: str, samples: int | None, error: Exception) -> DataError:
    """The error for a batch that the fp32 model fails on.

    Args:
        argument: name of the loader's, or the function's, argument.
        batch: describes the batch.
        samples: how many came before the batch; None where it is no part of a loader.
        error: what the model raised.
    """
    like = "of the first one" if samples else "that the model takes"
    place = "" if samples is None else f", which comes after {samples} samples"
    return DataError(
        f"{argument}: the model fails on the batch {batch}{place}: {type(error).__name__}: {error}\n"
        f"Give all batches the form and the feature shapes {like}."
    )


def describe(value: Any, depth: int = 3) -> str:
    """Types, shapes, dtypes and keys of an item, on one line."""
    if is_array(value):
        return f"{type(value).__name__} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        body = ", ".join(f"{key!r}: {describe(item, depth - 1)}" for key, item in list(value.items())[:12])
        name = "" if type(value) is dict else f"{type(value).__name__} "
        return f"{name}{{{body}}}" if depth > 0 else f"{name}{{...}}"
    if isinstance(value, (tuple, list)):
        parts = [describe(item, depth - 1) for item in value[:6]] if depth > 0 else ["..."]
        body = ", ".join([*parts, "..."] if len(value) > 6 and depth > 0 else parts)
        return f"({body})" if isinstance(value, tuple) else f"[{body}]"
    if isinstance(value, (bool, int, float)) or value is None:
        return repr(value)
    return type(value).__name__
