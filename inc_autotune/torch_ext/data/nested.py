"""Values of any nesting with other tensors in them: containers and objects of the user's keep their types."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum, range, slice)
_SHARED = (nn.Module, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""What a copy of a value has in common with it: code and models, not state of one call."""


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """A copy of a value with `function` applied to every tensor.

    Tuples, lists, dicts and whatever is made of these, mappings and dataclasses of any class, and objects that hold
    state, such as the key-value caches of the transformers library, become others of the same class; what a value
    holds twice its copy holds twice. Modules and functions are shared, as is an object that `copy.deepcopy` refuses.
    """
    return _map(value, function, {})


def every_tensor(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value once: those that `map_tensors` maps, in the same order."""
    return (found for found in _reachable(value, set()) if isinstance(found, Tensor))


def _map(value: Any, function: Callable[[Tensor], Any], memo: dict[int, Any]) -> Any:
    if isinstance(value, (_PLAIN, _SHARED)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if isinstance(value, Tensor):
        mapped = function(value)
    elif kind is tuple or kind is list:
        mapped = kind(_map(item, function, memo) for item in value)
    elif kind is dict or kind is MappingProxyType:  # the second one cannot be copied
        mapped = kind({key: _map(item, function, memo) for key, item in value.items()})
    else:
        return _copied(value, function, memo)
    memo[id(value)] = mapped
    return mapped


def _copied(value: Any, function: Callable[[Tensor], Any], memo: dict[int, Any]) -> Any:
    """A deep copy of an object that takes the mapped tensors for copies of its tensors."""
    for found in _reachable(value, set()):
        if id(found) not in memo:
            memo[id(found)] = function(found) if isinstance(found, Tensor) else found
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:  # whatever the object's own way to be copied raises
        logger.warning(
            "inputs hold a %s that cannot be copied (%s: %s): every run of the model gets the same one",
            *(type(value).__qualname__, type(error).__name__, error),
        )
        memo[id(value)] = value
        return value


def _reachable(value: Any, seen: set[int]) -> Iterator[Any]:
    """The tensors, and what copies share, in a value, each once."""
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (Tensor, _SHARED)):
        yield value
        return
    for part in _parts(value):
        yield from _reachable(part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """What an object holds: its items, its attributes, its slots."""
    if isinstance(value, (dict, MappingProxyType)):
        yield from (dict.values(value) if isinstance(value, dict) else value.values())
    elif isinstance(value, (tuple, list, set, frozenset)):
        yield from value
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, Mapping):
        yield from attributes.values()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(value, name, None)
