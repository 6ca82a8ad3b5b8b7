"""Checks of single argument values. A check returns the value in its plain Python form or raises `CheckError`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from inc_autotune.core.errors import did_you_mean
from inc_autotune.core.vocabulary import listing

T = TypeVar("T")

LONGEST_VALUE = 200


class CheckError(ValueError):
    """What is wrong with a value and what is allowed instead; becomes an `ArgumentError` that names the argument."""

    def __init__(self, text: str, allowed: str, hint: str = "") -> None:
        super().__init__(f"{text}. Allowed: {allowed}.{hint}")
        self.text = text
        self.allowed = allowed
        self.hint = hint


def shown(value: object) -> str:
    """`repr` on one line, shortened; the type of what has no `repr`."""
    try:
        text = repr(value) if isinstance(value, str) else " ".join(repr(value).split())
    except Exception:  # an int of thousands of digits, lists in lists without end, code of the user that fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def described(value: object) -> str:
    """The value and its type, `'0.5' is a str`, for a value of the wrong type."""
    if value is None:
        return "it is None"
    name = type(value).__name__
    return f"{shown(value)} is {'an' if name[0] in 'aeiou' else 'a'} {name}"


def plain(value: object) -> object:
    """NumPy and torch scalars, 0-d and 1-d arrays as Python numbers and lists; anything else unchanged.

    Of a masked array, a buffer, a tensor that is sparse or has no values, there is no such form.
    """
    if isinstance(value, np.ma.MaskedArray | memoryview):
        return value
    dimensions = getattr(value, "ndim", None)
    try:
        if dimensions == 0 and hasattr(value, "item"):
            return value.item()
        if dimensions == 1 and hasattr(value, "tolist"):
            return value.tolist()
    except (RuntimeError, TypeError, ValueError):
        return value
    return value


def number(
    allowed: str, *, low: float = 0.0, high: float = math.inf, above_low: bool = False, digits: int | None = None
) -> Callable[[Any], float]:
    """A check for a finite number from `low` (excluded when `above_low`) to `high`.

    Args:
        digits: round to so many decimals before the bounds are checked. Absorbs float dust:
            numpy.arange(0.8, 1.0, 0.05) ends with 1.0000000000000002, numpy.float32(0.1) is 0.10000000149.
    """

    def check(value: object) -> float:
        value = plain(value)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise CheckError(f"{described(value)}, not a number", allowed)
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if not math.isfinite(result):
            raise CheckError(f"{shown(value)} is not a finite number", allowed)
        result = result if digits is None else round(result, digits)
        if result < low or (above_low and result == low):
            raise CheckError(f"{shown(value)} is {'not above' if above_low else 'below'} {low:g}", allowed)
        if result > high:
            raise CheckError(f"{shown(value)} is above {high:g}", allowed)
        return result

    return check


def integer(allowed: str, *, low: int, high: int | None = None) -> Callable[[Any], int]:
    """A check for a whole number from `low` to `high`."""

    def check(value: object) -> int:
        value = plain(value)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise CheckError(f"{described(value)}, not a whole number", allowed)
        result = int(value)
        if result < low:
            raise CheckError(f"{shown(result)} is below {low}", allowed)
        if high is not None and result > high:
            raise CheckError(f"{shown(result)} is above {high}", allowed)
        return result

    return check


def boolean(value: object) -> bool:
    """True or False; 0, 1 and strings are not."""
    value = plain(value)
    if not isinstance(value, bool):
        raise CheckError(f"{described(value)}, not a bool", "True or False")
    return value


def boolean_or_auto(value: object) -> bool | Literal["auto"]:
    """True, False or "auto"; None is not."""
    value = plain(value)
    if isinstance(value, bool):
        return value
    allowed = "True, False or 'auto'"
    if not isinstance(value, str):
        raise CheckError(f"{described(value)}, neither a bool nor 'auto'", allowed)
    choice(("auto",), allowed)(value)
    return "auto"


def text(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str):
        raise CheckError(f"{described(value)}, not a str", "a str that is not empty")
    if not value.strip():
        raise CheckError(f"{value!r} is empty", "a str that is not empty")
    return value


def choice(words: Collection[str], allowed: str | None = None, what: str = "value") -> Callable[[Any], str]:
    """A check for one of `words`."""

    def check(value: object) -> str:
        all_words = allowed or listing(words)
        if not isinstance(value, str):
            raise CheckError(f"{described(value)}, not a str", all_words)
        if value not in words:
            raise CheckError(f"unknown {what} {shown(value)}", all_words, did_you_mean(value, words))
        return value

    return check


def one_or_many(check: Callable[[Any], T], allowed: str) -> Callable[[Any], tuple[T, ...]]:
    """A check for one value or a list of values; the result is a tuple without duplicates, in the given order."""

    def check_all(value: object) -> tuple[T, ...]:
        value = plain(value)
        if isinstance(value, set | frozenset):
            raise CheckError(f"{described(value)}, which has no order", allowed)
        if getattr(value, "ndim", 1) > 1:
            raise CheckError("the array has more than one dimension", allowed)
        values = list(value) if isinstance(value, list | tuple | range) else [value]
        if not values:
            raise CheckError("the list is empty", allowed)
        try:
            return tuple(dict.fromkeys(check(item) for item in values))
        except CheckError as problem:
            raise CheckError(problem.text, allowed, problem.hint) from None

    return check_all


def optional(check: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """`check`, except that None passes."""
    return lambda value: None if value is None else check(value)


def mapping(value: object, keys: Collection[str], allowed: str, renamed: Mapping[str, str] | None = None) -> None:
    """Checks that `value` is a dict and has no key outside `keys`.

    Args:
        keys: the known keys.
        allowed: the text that lists them.
        renamed: key of Intel Neural Compressor -> the key that means the same here, for the hint.
    """
    if not isinstance(value, Mapping):
        raise CheckError(f"{described(value)}, not a dict", f"a dict with {allowed}")
    for key in value:
        if key not in keys:
            other = (renamed or {}).get(key) if isinstance(key, str) else None
            hint = f" Did you mean {other!r}?" if other else did_you_mean(key, keys)
            raise CheckError(f"unknown key {shown(key)}", allowed, hint)
