"""Records which operation wrote and which operations read every tensor of one forward pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from inc_autotune.torch_ext.model import AddressMap, EagerDispatchMode, tensors_in, written_tensors

Layout = Literal["same", "last", "other"]

_COPIES = frozenset({"clone", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "alias_copy", "detach_copy"})
_VIEWS = frozenset({"_unsafe_view", "_reshape_alias", "view_copy", "_reshape_copy"})
_SAME_LAYOUT = _COPIES | {"alias", "detach", "view_as"}
_LAST_KEPT = frozenset({"view", "reshape", "flatten", "unsqueeze", "squeeze", "expand"}) | _VIEWS
_RECTIFIERS = frozenset({"relu", "relu_", "relu6", "relu6_"})
_LOWER_BOUND = {"hardtanh": 1, "hardtanh_": 1, "clamp": 1, "clamp_": 1, "clamp_min": 1, "clamp_min_": 1}


@dataclass(eq=False)
class Value:
    """What a tensor held between two writes; compares by identity.

    Args:
        shape: of the tensor.
        producer: operation that wrote it; None for inputs, parameters and tensors made outside the model.
        readers: operations that took it as an argument, in order.
        kept: still referenced when the forward pass was over: returned, cached, or stored on a module.
    """

    shape: tuple[int, ...]
    producer: Operation | None = None
    readers: list[Operation] = field(default_factory=list)
    kept: bool = False


@dataclass(eq=False)
class Operation:
    """One call of an ATen operator.

    Args:
        name: `aten.add` and the like.
        scope: name of the innermost watched module that was running, None between modules.
        inputs: tensors read.
        outputs: tensors written or returned.
        is_view: the output holds some or all numbers of the input, perhaps arranged differently.
        layout: of a view: `same` shape and order, `last` dimension kept as it is, or `other`.
        is_rectifier: ReLU, or a clamp from below at zero.
    """

    name: str
    scope: str | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...] = ()
    is_view: bool = False
    layout: Layout = "other"
    is_rectifier: bool = False


class DataFlow(EagerDispatchMode):
    """Context manager; every operator called inside the context becomes an `Operation` between `Value`s.

    Tensors are followed by weak references, so that memory is freed as in a plain forward pass and a reused `id` is not
    taken for the same tensor. An in-place write starts a new `Value`, also for other views of the same storage.

    Args:
        weights: tensors by their owner's name; noted are reads of a tensor's memory while another module runs.
        tables: owners of weights that may be looked up elsewhere.
    """

    supports_higher_order_operators = True

    def __init__(self, weights: AddressMap[str], tables: Collection[str] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scopes: list[str] = []
        self.paused = False
        self.foreign_reads: dict[str, str] = {}
        self._weights = weights
        self._tables = tables
        self._bound: MutableMapping[Tensor, tuple[Value, int]] = WeakTensorKeyDictionary()
        self._last_write: dict[int, tuple[int, Value]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        read = [*tensors_in(args), *tensors_in(kwargs)]
        written = written_tensors(func, args, kwargs)
        operation = Operation(_operator_name(func), self.scope, tuple(self.value(tensor) for tensor in read))
        self._note_weights(read, operation)
        for value in dict.fromkeys(operation.inputs):
            value.readers.append(operation)
        result = func(*args, **kwargs)
        returned = [tensor for tensor in tensors_in(result) if not any(tensor is other for other in read)]
        operation.outputs = tuple([self._bind_write(tensor, operation) for tensor in written])
        operation.outputs += tuple(self._bind(tensor, Value(tuple(tensor.shape), operation)) for tensor in returned)
        if len(returned) == 1 and read and not written:
            operation.is_view = _is_view(func, operation.name, read[0], returned[0])
            if operation.is_view:
                operation.layout = _layout(operation.name, args, read[0], returned[0])
        elif returned and not written:
            operation.is_view = bool(getattr(func, "is_view", False))
        operation.is_rectifier = _is_rectifier(operation.name, args, kwargs)
        return result

    @property
    def scope(self) -> str | None:
        return self.scopes[-1] if self.scopes else None

    def value(self, tensor: Tensor) -> Value:
        """What `tensor` holds now."""
        bound = self._bound.get(tensor)
        if bound is None:
            return self._bind(tensor, Value(tuple(tensor.shape)))
        value, epoch = bound
        if self._last_write:
            last = self._last_write.get(_storage(tensor))
            if last is not None and last[0] != epoch:
                return self._bind_stale(tensor, value, last[1])
        return value

    def mark_kept(self) -> None:
        """Mark values with tensors that are alive; to be called after the forward pass, with its output still held."""
        for value, _ in self._bound.values():
            value.kept = value.producer is not None

    def _bind(self, tensor: Tensor, value: Value) -> Value:
        epoch = self._last_write[_storage(tensor)][0] if _storage(tensor) in self._last_write else 0
        self._bound[tensor] = (value, epoch)
        return value

    def _bind_write(self, tensor: Tensor, operation: Operation) -> Value:
        value = Value(tuple(tensor.shape), operation)
        storage = _storage(tensor)
        epoch = self._last_write[storage][0] + 1 if storage in self._last_write else 1
        self._last_write[storage] = (epoch, value)
        return self._bind(tensor, value)

    def _bind_stale(self, tensor: Tensor, old: Value, written: Value) -> Value:
        """Another view of the same storage was written: `tensor` holds a mixture now."""
        operation = Operation("in-place write through another view", self.scope, (old, written))
        value = Value(tuple(tensor.shape), operation)
        operation.outputs = (value,)
        old.readers.append(operation)
        written.readers.append(operation)
        return self._bind(tensor, value)

    def _note_weights(self, read: list[Tensor], operation: Operation) -> None:
        for tensor in read:
            owners = self._weights.find(tensor)
            if self._tables and operation.name == "aten.embedding":
                owners = [owner for owner in owners if owner not in self._tables]
            if owners and operation.scope not in owners:
                where = f" in {operation.scope}" if operation.scope else ""
                reason = f"its weight is read outside the module, by {operation.name}{where}"
                if torch._C._current_graph_task_id() >= 0:  # a backward pass inside the forward pass
                    reason = "the model itself takes its gradient with torch.autograd, and integers have none"
                for owner in owners:
                    self.foreign_reads.setdefault(owner, reason)


def readers_through_views(value: Value, opaque_scopes: Collection[str]) -> Iterator[tuple[Value, Operation | None]]:
    """Pairs of a value and an operation that reads it, through views outside `opaque_scopes`; None: it is kept."""
    if value.kept:
        yield value, None
    for operation in value.readers:
        if operation.is_view and operation.scope not in opaque_scopes:
            for output in operation.outputs:
                yield from readers_through_views(output, opaque_scopes)
        else:
            yield value, operation


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have none
        return id(tensor)


def _operator_name(function: Any) -> str:
    packet = getattr(function, "overloadpacket", None)
    return f"{function.namespace}.{packet.__name__}" if packet is not None else str(function)


def _is_view(function: Any, name: str, source: Tensor, result: Tensor) -> bool:
    operator = name.rpartition(".")[2]
    declared = bool(getattr(function, "is_view", False)) or operator in _COPIES or operator in _VIEWS
    return declared and source.dtype == result.dtype


def _layout(name: str, args: tuple[Any, ...], source: Tensor, result: Tensor) -> Layout:
    operator = name.rpartition(".")[2]
    if source.ndim == 0 or result.ndim == 0:
        return "other"
    if operator in _SAME_LAYOUT or (operator in _LAST_KEPT and source.shape == result.shape):
        return "same"
    if operator in _LAST_KEPT:
        return "last" if source.shape[-1] == result.shape[-1] else "other"
    moved = [dimension % source.ndim for dimension in _dimensions(operator, args)]
    if operator == "transpose" and moved:
        return "other" if source.ndim - 1 in moved else "last"
    if operator == "permute" and moved:
        return "last" if moved[-1] == source.ndim - 1 else "other"
    return "other"


def _dimensions(operator: str, args: tuple[Any, ...]) -> list[int]:
    if operator == "transpose":
        return [int(dimension) for dimension in args[1:3]]
    if operator == "permute" and len(args) > 1:
        return [int(dimension) for dimension in args[1]]
    return []


def _is_rectifier(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    operator = name.rpartition(".")[2]
    if operator in _RECTIFIERS:
        return True
    if operator in ("threshold", "threshold_"):
        return list(args[1:3]) == [0, 0]
    position = _LOWER_BOUND.get(operator)
    if position is None:
        return False
    bound = args[position] if position < len(args) else kwargs.get("min", kwargs.get("min_val"))
    return isinstance(bound, (int, float)) and bound == 0
