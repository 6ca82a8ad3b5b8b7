"""Memory that a model takes while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data import Batch, every_tensor, run
from inc_autotune.torch_ext.model import EagerDispatchMode, tensors_in
from inc_autotune.torch_ext.modules import QuantizedOperator


def peak_bytes(model: nn.Module, batch: Batch) -> int:
    """Most bytes in use at once during one forward pass: tensors of the model, and tensors that operators return.

    The copy of the inputs that the pass makes counts too. Memory that a kernel allocates and frees within one operator
    is not seen. The count depends on the model and the shapes alone.
    """
    live = _LiveBytes([*_own_tensors(model), *every_tensor((batch.args, batch.kwargs))])
    with live:
        run(model, batch)
    return resident_bytes(model) + live.peak


def resident_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers and packed weights, shared memory counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in _own_tensors(model)}
    # Kernels pack the integers of a weight, in another order, into memory that torch does not report.
    packed = {
        integers.data_ptr(): integers.nbytes
        for module in model.modules()
        if isinstance(module, QuantizedOperator) and module.packed is not None
        for integers in [module._buffers.get("integer_weight")]
        if integers is not None
    }
    return sum(storage.nbytes() for storage in storages.values()) + sum(packed.values())


def _own_tensors(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if _has_storage(tensor)]


def _has_storage(tensor: Tensor) -> bool:
    """Whether a tensor's bytes can be counted; False for a sparse tensor, for instance."""
    return tensor.layout == torch.strided


class _LiveBytes(EagerDispatchMode):
    """Counts the bytes of the storages that operators return, as long as the storages live.

    Torch's profiler would see a kernel's own memory too, but writes to the standard error stream.

    Args:
        known: tensors with storages that are not counted.
    """

    supports_higher_order_operators = True

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if not _has_storage(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        self.peak = max(self.peak, self._bytes)
        return result

    def _forget(self, size: int) -> None:
        self._bytes -= size
