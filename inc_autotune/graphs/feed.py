"""The named inputs of one run of a model, in the dtypes and shapes that it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import describe, is_array, is_number_list
from inc_autotune.core.errors import DataError, did_you_mean

_TEXT_KINDS = "OUS"
_WHOLE_KINDS = "iub"


@dataclass(frozen=True)
class InputDescription:
    """An input that the caller of a model has to give.

    Args:
        name: of the input.
        dtype: NumPy dtype; object for strings.
        shape: a number for a fixed dimension, its name for a symbolic one, None for one without a name. None for the
            whole where even the rank is unknown.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dtype = "string" if self.dtype == object else str(self.dtype)
        if self.shape is None:
            return f"{self.name}: {dtype}"
        return f"{self.name}: {dtype} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Feed:
    """What a model is run with.

    Args:
        inputs: arrays by name. They may share memory with what the user's loader yielded.
        size: number of samples: the first dimension of the first input that has one, else 1.
        batched: names of the inputs whose first dimension counts the samples; empty where the model fixes it.
        single: whether this was one sample without a batch dimension, which was added.
    """

    inputs: dict[str, Array]
    size: int
    batched: frozenset[str]
    single: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs; of text those of the references."""
        return sum(value.nbytes for value in self.inputs.values())

    @property
    def divisible(self) -> bool:
        """Whether its samples can be told apart."""
        return bool(self.batched)

    def slice(self, start: int, stop: int) -> Feed:
        """Samples `start` to `stop`; all of them where they cannot be cut."""
        start, stop = max(start, 0), min(stop, self.size)
        if not self.batched or (start == 0 and stop == self.size):
            return self
        cut = {name: value[start:stop] if name in self.batched else value for name, value in self.inputs.items()}
        return Feed(cut, stop - start, self.batched)

    def uncut(self) -> Feed:
        """The same samples, never to be cut."""
        return replace(self, batched=frozenset())

    def whole(self) -> Feed:
        """The same inputs as one sample."""
        return replace(self, size=1, batched=frozenset())

    def everywhere(self, index: int) -> Feed:
        """As many samples, all equal to one of them."""
        value = {
            name: np.repeat(each[index : index + 1], self.size, axis=0) if each.shape[:1] == (self.size,) else each
            for name, each in self.inputs.items()
        }
        return replace(self, inputs=value)

    def take(self, count: int) -> Feed:
        """The first `count` samples, all of them when there are fewer."""
        return self.slice(0, count)

    def copy(self) -> Feed:
        """The same inputs in memory of their own, for a loader that uses its arrays again."""
        return Feed({name: value.copy() for name, value in self.inputs.items()}, self.size, self.batched)


def positional_feed(values: Sequence[Any], inputs: Sequence[InputDescription], argument: str) -> Feed:
    """Inputs in the order of the model.

    Args:
        values: arrays or tensors.
        inputs: what the model declares.
        argument: the loader's argument, for messages.

    Raises:
        DataError: there are more or fewer than the model has, or one does not fit.
    """
    if len(values) != len(inputs):
        raise DataError(
            f"{argument} yields {len(values)} inputs, {describe(tuple(values))}, but the model has {len(inputs)}: "
            f"{_listed(inputs)}. Give one for each, in this order, or a dict by name."
        )
    return named_feed({each.name: value for each, value in zip(inputs, values, strict=True)}, inputs, argument)


def named_feed(values: Mapping[str, Any], inputs: Sequence[InputDescription], argument: str) -> Feed:
    """Inputs by name, cast to the dtypes that the model declares where no value changes.

    Inputs that all lack their first dimension are one sample, and get it.

    Args:
        values: arrays or tensors.
        inputs: what the model declares.
        argument: the loader's argument, for messages.

    Raises:
        DataError: a name is unknown or missing, or a value has another dtype, rank or size than declared.
    """
    _check_names(values, inputs, argument)
    feed = {each.name: _as_array(values[each.name], each, argument) for each in inputs}
    single = _is_single_sample(feed, inputs)
    if single:
        feed = {name: value[None] for name, value in feed.items()}
    feed = {each.name: _fitted(_cast(feed[each.name], each, argument), each, argument) for each in inputs}
    _check_symbols(feed, inputs, argument)
    size = next((value.shape[0] for value in feed.values() if value.ndim), 1)
    if size == 0:
        raise DataError(f"{argument} yields a batch without samples: {describe(feed)}. Leave it out.")
    batched = frozenset(name for name, value in feed.items() if value.ndim and value.shape[0] == size)
    fixed = any(each.name in batched and each.shape and isinstance(each.shape[0], int) for each in inputs)
    return Feed(feed, size, frozenset() if fixed else batched, single)


def _is_single_sample(values: Mapping[str, Array], inputs: Sequence[InputDescription]) -> bool:
    return all(each.shape is not None and values[each.name].ndim == len(each.shape) - 1 for each in inputs)


def to_numpy(value: Any) -> Array:
    """An array or tensor of some framework as a NumPy array; bfloat16 of torch, which NumPy lacks, as float32."""
    if all(hasattr(value, name) for name in ("detach", "cpu", "numpy")):  # a torch tensor, without importing torch
        tensor = value.detach().cpu()
        return np.asarray(tensor.float().numpy() if "bfloat16" in str(tensor.dtype) else tensor.numpy())
    return np.asarray(value)


def _check_names(values: Mapping[str, Any], inputs: Sequence[InputDescription], argument: str) -> None:
    names = [each.name for each in inputs]
    missing = [name for name in names if name not in values]
    unknown = [key for key in values if key not in names]
    if missing or unknown:
        problems = [f"missing: {', '.join(map(repr, missing))}"] if missing else []
        problems += [f"unknown: {', '.join(map(repr, unknown))}"] if unknown else []
        hint = did_you_mean(unknown[0], missing or names) if unknown else ""
        raise DataError(
            f"{argument} yields inputs that the model does not have or lacks some ({'; '.join(problems)}). "
            f"The model has: {_listed(inputs)}. The loader yields: {describe(values)}.{hint}"
        )


def _listed(inputs: Sequence[InputDescription]) -> str:
    return "; ".join(map(str, inputs))


def _fitted(array: Array, declared: InputDescription, argument: str) -> Array:
    if declared.shape is None:
        return array
    if array.ndim != len(declared.shape):
        hint = ""
        if array.ndim == len(declared.shape) - 1:
            hint = " The batch dimension seems to be missing: give batches, such as value[None]."
        raise DataError(
            f"{argument}: input {declared.name!r} is {describe(array)}, of rank {array.ndim}, but the model declares "
            f"{declared}, of rank {len(declared.shape)}.{hint}"
        )
    for axis, (size, expected) in enumerate(zip(array.shape, declared.shape, strict=True)):
        if isinstance(expected, int) and size != expected:
            hint = f" Give batches of {expected}." if axis == 0 else " Pad or cut the data to it."
            raise DataError(
                f"{argument}: dimension {axis} of input {declared.name!r} is {size}, but the model fixes it to "
                f"{expected} ({declared}).{hint} Or export the model with this dimension dynamic."
            )
    return array


def _as_array(value: Any, declared: InputDescription, argument: str) -> Array:
    if isinstance(value, (np.ndarray, np.generic, bool, int, float)):
        return np.asarray(value)
    if is_array(value) and (hasattr(value, "__array__") or hasattr(value, "detach")):
        return to_numpy(value)
    if declared.dtype == object:
        return np.asarray(value, dtype=object)
    kind = "a list of numbers; make an array of it" if is_number_list(value) else f"{describe(value)}; no array"
    raise DataError(f"{argument}: input {declared.name!r} is {kind}. The model declares {declared}.")


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # whose kind is that of raw bytes


def _cast(array: Array, declared: InputDescription, argument: str) -> Array:
    if array.dtype == declared.dtype:
        return array
    problem = "is of another kind"
    if declared.dtype.kind in _TEXT_KINDS or array.dtype.kind in _TEXT_KINDS:
        if declared.dtype.kind in _TEXT_KINDS and array.dtype.kind in _TEXT_KINDS:
            return array.astype(object)
    elif _is_floating(declared.dtype) and _is_floating(array.dtype):
        with np.errstate(over="ignore"):
            result = array.astype(declared.dtype)
        if (np.isfinite(result) == np.isfinite(array)).all():
            return result
        problem = f"has values beyond what {declared.dtype} holds (clip them first)"
    elif array.dtype.kind in _WHOLE_KINDS:
        result = array.astype(declared.dtype)
        if np.array_equal(result, array) and np.array_equal(result.astype(array.dtype), array):
            return result
        problem = "has values that do not fit"
    else:
        problem = "would be rounded"
    raise DataError(
        f"{argument}: input {declared.name!r} is {describe(array)}, but the model declares {declared}, and the data "
        f"{problem}. Convert it in the loader, such as value.astype({str(declared.dtype)!r})."
    )


def _check_symbols(feed: Mapping[str, Array], inputs: Sequence[InputDescription], argument: str) -> None:
    """Inputs whose dimension has the same name agree in it. Only the same axis counts: some exporters reuse names."""
    sizes: dict[tuple[int, str], tuple[str, int]] = {}
    for each in inputs:
        for axis, symbol in enumerate(each.shape or ()):
            if isinstance(symbol, str):
                size = feed[each.name].shape[axis]
                first, expected = sizes.setdefault((axis, symbol), (each.name, size))
                if size != expected:
                    raise DataError(
                        f"{argument}: inputs {first!r} and {each.name!r} share dimension {symbol!r}, but their sizes "
                        f"along axis {axis} are {expected} and {size}. Give them the same."
                    )
