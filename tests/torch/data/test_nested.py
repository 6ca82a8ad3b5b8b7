"""Tests of values that are more than tensors."""

from __future__ import annotations

import enum
import logging
import threading
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data.nested import every_tensor, map_tensors

Pair = namedtuple("Pair", "left right")


class Mode(enum.Enum):
    FAST = 1


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    scale: float = 2.0
    derived: Tensor = field(init=False, default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", self.x * 2)


class Attributed(OrderedDict):  # type: ignore[type-arg]
    """A mapping whose entries are attributes too, as model outputs are."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


class Slotted:
    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Cache:
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.seen = 0


X = torch.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    "value",
    [
        (X, [X, {"a": X}]),
        Pair(X, 1),
        OrderedDict(b=X, a=X),
        defaultdict(list, a=X),
        UserDict(a=X),
        MappingProxyType({"a": X}),
        Frozen(X),
        Attributed(a=X),
        Slotted(X),
        nn.utils.rnn.pack_sequence([X[:, 0], X[:2, 0]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_survive_and_every_tensor_is_mapped(value: Any) -> None:
    mapped = map_tensors(value, lambda tensor: tensor + 1)
    assert type(mapped) is type(value)
    before, after = list(every_tensor(value)), list(every_tensor(mapped))
    assert len(before) == len(after) > 0
    assert all(torch.equal(one + 1, other) for one, other in zip(before, after, strict=True))


def test_what_is_held_twice_stays_so_and_the_rest_of_an_object_is_its_own() -> None:
    cache = Cache()
    cache.keys.append(X)
    (one, two), entries = map_tensors(((cache, cache), {"x": X}), torch.clone)
    assert one is two
    assert one is not cache
    assert one.keys[0] is entries["x"]
    one.keys.append(X)
    one.seen = 5
    assert len(cache.keys) == 1
    assert cache.seen == 0


def test_an_object_without_tensors_is_copied_too_since_it_may_get_some() -> None:
    cache = Cache()
    assert map_tensors((cache,), torch.clone)[0] is not cache


def test_modules_functions_and_constants_are_shared() -> None:
    model = nn.Linear(2, 2)
    cache = Cache()
    cache.__dict__.update(model=model, function=torch.relu, mode=Mode.FAST, array=np.ones(2))
    copied = map_tensors(cache, torch.clone)
    assert copied.model is model
    assert copied.function is torch.relu
    assert copied.mode is Mode.FAST
    assert copied.array is not cache.__dict__["array"]


def test_an_object_that_cannot_be_copied_is_passed_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    cache.__dict__["lock"] = threading.Lock()
    with caplog.at_level(logging.WARNING):
        assert map_tensors((cache, X), torch.clone)[0] is cache
    assert "Cache that cannot be copied" in caplog.text
