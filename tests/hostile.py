"""Objects that fail wherever they are looked at, and other values that no argument means."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from inc_autotune.core.errors import AutotuneError


def _fail(*_: object, **__: object) -> Any:
    raise RuntimeError("hostile")


class Unreadable:
    """Has no repr, no truth, no length, no elements, no hash and equals nothing."""

    __repr__ = __str__ = __bool__ = __len__ = __iter__ = __getitem__ = __eq__ = __hash__ = __contains__ = _fail
    __float__ = __int__ = __index__ = __call__ = __deepcopy__ = __copy__ = __array__ = _fail


class Unshown:
    """Its repr fails."""

    __repr__ = _fail


class UnreadableDict(dict[Any, Any]):
    """A dict that cannot be read."""

    __iter__ = keys = items = values = __len__ = __deepcopy__ = _fail


class UnreadableList(list[Any]):
    """A list that cannot be read."""

    __iter__ = __len__ = __getitem__ = __deepcopy__ = _fail


class UnreadableArray:
    """Looks like an array, and gives nothing."""

    ndim, shape, dtype = 1, (3,), np.dtype(np.float32)
    item = tolist = __array__ = __len__ = __iter__ = __float__ = _fail


def endless_list() -> list[Any]:
    """It contains itself."""
    result: list[Any] = []
    result.append(result)
    return result


def nonsense() -> dict[str, Any]:
    """Values that hardly any argument means, by what they are."""
    return {
        "unreadable": Unreadable(),
        "unshown": Unshown(),
        "unreadable dict": UnreadableDict(a=1),
        "unreadable list": UnreadableList([1]),
        "unreadable array": UnreadableArray(),
        "unshown in a list": [Unshown()],
        "unshown as a key": {Unshown(): 1},
        "endless list": endless_list(),
        "mixed set": {1, "bf16"},
        "nan": float("nan"),
        "infinity": float("inf"),
        "minus": -1,
        "large": 10**400,
        "complex": 1j,
        "bool": True,
        "NumPy bool": np.bool_(True),
        "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "masked number": np.ma.masked,
        "memory": memoryview(b"abc"),
        "bytes": b"abc",
        "empty": "",
        "NUL": "\0",
        "surrogate": "\ud800",
        "long": "x" * 10_000,
        "date": datetime.datetime(2024, 1, 1),
        "NumPy date": np.datetime64("2024-01-01"),
        "decimal": decimal.Decimal("NaN"),
        "strings": np.array(["a", "b"]),
        "objects": np.array([None, {}], dtype=object),
        "no elements": np.zeros((0,)),
        "matrix": np.eye(2),
        "type": int,
        "module": np,
        "function": lambda *_: None,
        "ellipsis": ...,
        "nested": [[[[1]]]],
        "generator": (each for each in (1, 2)),
    }


def answers(verb: Callable[..., Any], good: Mapping[str, Any], argument: str) -> dict[str, str]:
    """How a verb takes nonsense as one of its arguments: what does not end in a result or an error that names it.

    Args:
        verb: to be called.
        good: its arguments, with which it works.
        argument: the one that is nonsense.
    """
    found = {}
    for name, value in nonsense().items():
        try:
            verb(**{**good, argument: value})
        except AutotuneError as error:
            if argument not in str(error):
                found[name] = f"not named: {error}"
        except Exception as error:
            found[name] = f"raw {type(error).__name__}: {error}"
    return found
