"""Run a user's model without leaving a trace on it."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from inc_autotune.core.shared_switch import SharedSnapshots, SharedSwitch

Label = TypeVar("Label")

# Batch-norm kernels write the running statistics although their schema does not say so.
_UNDECLARED_WRITES = {"native_batch_norm": (3, 4), "cudnn_batch_norm": (3, 4)}

_PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})
"""What most arguments are, and has no tensors; asked first, since `Mapping` and dataclasses take long to tell."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor of nested tuples, lists, mappings and dataclasses, in order."""
    if type(value) in _PLAIN:
        return
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name, None))


class AddressMap(Generic[Label]):
    """Finds the labelled tensors in whose memory another tensor lies, such as a view into the middle."""

    def __init__(self, tensors: Iterable[tuple[Tensor, Label]]) -> None:
        regions: dict[int, tuple[int, list[Label]]] = {}
        for tensor, label in tensors:
            start, size = _address(tensor), tensor.numel() * tensor.element_size()
            if not start or not size:
                continue
            end, labels = regions.get(start, (start, []))
            regions[start] = (max(end, start + size), [*labels, label])
        self._starts = sorted(regions)
        self._regions = regions

    def find(self, tensor: Tensor) -> list[Label]:
        """Labels of the region in which `tensor` starts; empty if no region holds that address."""
        address = _address(tensor)
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return []
        end, labels = self._regions[self._starts[index]]
        return labels if address < end else []


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # meta, sparse and opaque tensors, uninitialized parameters
        return 0


@lru_cache(maxsize=4096)
def _written_parameters(function: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    schema = getattr(function, "_schema", None)
    if schema is None:
        return (), ()
    written = [(index, argument.name) for index, argument in enumerate(schema.arguments) if _is_written(argument)]
    positions = {index for index, _ in written}
    positions.update(_UNDECLARED_WRITES.get(function.overloadpacket.__name__, ()))
    return tuple(sorted(positions)), tuple(name for _, name in written)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def written_tensors(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among an operator's arguments that it changes in place."""
    positions, names = _written_parameters(function)
    if not positions and not names:
        return []
    values = [args[position] for position in positions if position < len(args)]
    values += [kwargs[name] for name in names if name in kwargs]
    return list(tensors_in(values))


class EagerDispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode for eager models, without torch's safeguard against compiling the mode itself.

    The safeguard imports torch's compiler, which takes a second and 100 MiB.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _WriteGuard(EagerDispatchMode):
    """Copies a protected tensor just before the first write into the tensor's memory."""

    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._protected = AddressMap((tensor, tensor) for tensor in tensors)
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for written in written_tensors(func, args, kwargs or {}):
            for tensor in self._protected.find(written):
                if id(tensor) not in self._saved:
                    self._saved[id(tensor)] = (tensor, tensor.detach().clone())
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        for tensor, saved in self._saved.values():
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(saved)


def _snapshot(values: dict[str, Any]) -> Callable[[], None]:
    """Remember the entries of a dictionary; the function returned puts the entries back."""
    before = dict(values)

    def restore() -> None:
        if len(values) != len(before) or any(values.get(key, values) is not item for key, item in before.items()):
            values.clear()
            values.update(before)

    return restore


_SNAPSHOTS = SharedSnapshots()


@contextmanager
def _held(takes: Mapping[int, Callable[[], Callable[[], object]]]) -> Iterator[None]:
    """Put objects back, by `id`, when the last thread that holds them leaves."""
    held = []
    try:
        for key, take in takes.items():
            _SNAPSHOTS.hold(key, take)
            held.append(key)
        yield
    finally:
        for key in held:
            _SNAPSHOTS.release(key)


def _modules(model: nn.Module) -> dict[int, Callable[[], Callable[[], object]]]:
    modules = (module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule))
    return {id(module): partial(_module_snapshot, module) for module in modules}


def _module_snapshot(module: nn.Module) -> Callable[[], None]:
    snapshots = [_snapshot(module.__dict__)]
    snapshots += [_snapshot(value) for value in module.__dict__.values() if isinstance(value, dict)]

    def restore() -> None:
        for each in snapshots:
            each()

    return restore


def _tensors(model: nn.Module) -> dict[int, Callable[[], Callable[[], object]]]:
    return {
        **{id(parameter): partial(_parameter_snapshot, parameter) for parameter in model.parameters()},
        **{id(buffer): partial(_buffer_snapshot, buffer) for buffer in model.buffers()},
    }


def _parameter_snapshot(parameter: nn.Parameter) -> Callable[[], None]:
    data, requires_grad, gradient = parameter.data, parameter.requires_grad, parameter.grad

    def restore() -> None:
        if parameter.dtype != data.dtype or _address(parameter) != _address(data):
            parameter.data = data
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)
        if parameter.grad is not gradient:
            parameter.grad = gradient

    return restore


def _buffer_snapshot(buffer: Tensor) -> Callable[[], None]:
    before = buffer.detach().clone()

    def restore() -> None:
        with torch.inference_mode(buffer.is_inference()), torch.no_grad():
            buffer.copy_(before)

    return restore


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving, what the user's own code inside the block does to a model.

    Covered: attributes, hooks, modes, parameters and buffers that are replaced (as by `.to()`), `requires_grad` and
    gradients, buffers written in place. Not covered are parameters written in place, since copies of all parameters
    would double the model. Several threads may be inside with the same model: the last one undoes.
    """
    with _held({**_tensors(model), **_modules(model)}):
        yield


@contextmanager
def _fast_path_disabled() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_FAST_PATH_DISABLED = SharedSwitch(_fast_path_disabled)


def attention_fast_path_disabled() -> AbstractContextManager[None]:
    """Switch off torch's fused attention and encoder layers, process-wide, for the duration of the block."""
    return _FAST_PATH_DISABLED


def uncompiled() -> AbstractContextManager[Any]:
    """Functions that the user compiled run as written, so that hooks see them and nothing is compiled for one pass."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet, and loading the compiler takes a second
        return nullcontext()
    return _EAGER


_EAGER = SharedSwitch(lambda: torch.compiler.set_stance("force_eager"))


_GENERATOR_KEPT = SharedSwitch(lambda: torch.random.fork_rng([]))


def generator_kept() -> AbstractContextManager[None]:
    """Put torch's generator of random numbers on the CPU back, when the last thread inside leaves."""
    return _GENERATOR_KEPT


@contextmanager
def untouched(model: nn.Module, *inputs: Any, fast_path: bool = False) -> Iterator[None]:
    """Undo, on leaving, what forward passes inside the block change, whatever happens there.

    Covered: parameters, buffers and input tensors written in place (a tensor is copied only before the first write),
    attributes and hooks set or replaced on modules, buffers registered, the random generators, and the switch of
    torch's fused attention fast path. The fast path is off inside the block: it reads the weights of Linear modules
    without calling the modules, and refuses padded batches once a hook is attached. Compiled functions run as written.
    Not covered are objects that the model changes in another way, such as a list that grows.

    Args:
        model: runs inside the block, without gradients.
        inputs: of the model, any nesting of tensors.
        fast_path: leave torch's switch as it is, for a model without hooks.
    """
    guard = _WriteGuard([*model.parameters(), *model.buffers(), *tensors_in(inputs)])
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with (
            _held(_modules(model)),
            generator_kept(),
            torch.random.fork_rng(sorted(devices)) if devices else nullcontext(),
            nullcontext() if fast_path else attention_fast_path_disabled(),
            uncompiled(),
            torch.no_grad(),
            guard,
        ):
            yield
    finally:
        guard.restore()
