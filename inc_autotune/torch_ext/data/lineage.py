"""Which tensors were computed from what a model returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from inc_autotune.torch_ext.model import EagerDispatchMode, tensors_in, written_tensors

_OVERWRITING = frozenset({"copy_", "fill_", "zero_"})
"""Operators after which nothing is left of what a tensor held."""


class Lineage(EagerDispatchMode):
    """Context manager; follows what is computed from given tensors, as long as it stays in tensors.

    Memory is followed, not tensors: who writes an output into a part of a buffer has changed the buffer.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._derived: WeakSet[torch.UntypedStorage] = WeakSet()
        self._paused = False

    def add(self, value: Any) -> None:
        """Follow the tensors of a value from now on."""
        self._derived.update(_storages(tensors_in(value)))

    def holds(self, value: Any) -> bool:
        """Whether a tensor of a value was computed from one that is followed, or is one."""
        return any(storage in self._derived for storage in _storages(tensors_in(value)))

    def pause(self) -> None:
        """Follow nothing that is computed from now on."""
        self._paused = True

    def resume(self) -> None:
        """Follow again."""
        self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._paused or not self._derived:
            return result
        written = written_tensors(func, args, kwargs)
        overwrites = bool(written) and getattr(func, "overloadpacket", func).__name__ in _OVERWRITING
        read = [*args[1:], kwargs] if overwrites else [args, kwargs]
        if self.holds(read):
            self.add((result, written))
        elif overwrites:
            whole = [each for each in written if each.nbytes == each.untyped_storage().nbytes()]
            self._derived.difference_update(_storages(whole))
        return result


def _storages(tensors: Iterable[Tensor]) -> Iterator[torch.UntypedStorage]:
    """The memory of tensors; sparse and opaque ones have none of their own."""
    return (tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided)
