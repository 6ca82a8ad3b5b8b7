"""The calls of quantizable operators in one forward pass, and why some operators cannot be quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.data import Batch, call
from inc_autotune.torch_ext.model import AddressMap, is_replaceable
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.operators.data_flow import DataFlow, Value
from inc_autotune.torch_ext.operators.recurrent import RECURRENT_TYPES
from inc_autotune.torch_ext.operators.types import OPERATORS, TABLE_TYPES, WEIGHT_DTYPES, base_type, operator_type

NOT_RUN = "not run with the example inputs"
"""Why an operator without a call cannot be quantized."""


@dataclass
class Call:
    """One call of a module.

    Args:
        input_value: what the input held.
        output_value: what the module returned.
        problem: why the module cannot be replaced, if the call is unusual.
    """

    input_value: Value | None = None
    output_value: Value | None = None
    problem: str | None = None


@dataclass
class CallRecord:
    """The raw material of a trace.

    Args:
        types: operator types by name, of operators that can be quantized.
        skipped: reasons by name, of operators that cannot be quantized.
        calls: by module name, in the order of first calls.
        foreign: operators with a weight that is read outside of them.
    """

    types: dict[str, str]
    skipped: dict[str, str]
    calls: dict[str, list[Call]] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()

    def only_output(self, name: str) -> Value | None:
        """What a module returned; None if the module was not called exactly once."""
        calls = self.calls.get(name, [])
        return calls[0].output_value if len(calls) == 1 else None


class CallWatcher:
    """Notes every call of an operator or leaf module in forward passes of a model, one pass after the other.

    Attributes:
        types: operator types by name, of operators that may be quantized.
        modules: all modules by name.

    Args:
        model: without hooks of ours.

    Raises:
        ModelError: a parameter is not initialized yet (lazy modules).
    """

    def __init__(self, model: nn.Module) -> None:
        self.types, self._skipped = _candidates(model)
        self.modules = dict(model.named_modules())
        operators = [*self.types, *self._skipped]
        leaves = (name for name, module in self.modules.items() if _is_leaf(module))
        self._names = tuple(dict.fromkeys([*operators, *leaves]))
        weights = ((weight, name) for name in operators for weight in _weights(self.modules[name]))
        self._weights = AddressMap((weight, name) for weight, name in weights if weight is not None)
        self._tables = {name for name in operators if "table" in self.modules[name]._parameters}
        self._flow: DataFlow | None = None
        self._record = CallRecord({}, {})

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks that note calls, for the duration of the context."""
        with ExitStack() as stack:
            for name in self._names:
                module = self.modules[name]
                before, after = self._hooks(name)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, with_kwargs=True, always_call=True).remove)
            stack.callback(self.end)
            yield

    def begin(self) -> None:
        """To be called before a forward pass."""
        self.end()
        self._record = CallRecord(dict(self.types), dict(self._skipped))
        self._flow = DataFlow(self._weights, self._tables)
        self._flow.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> CallRecord:
        """To be called after the forward pass, whatever happened, with the output still held."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            flow.mark_kept()
            _skip_unusable(self._record, flow)
        return self._record

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is no part of the model."""
        flow = self._flow
        if flow is None:
            yield
            return
        before, flow.paused = flow.paused, True
        try:
            yield
        finally:
            flow.paused = before

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            flow, record = self._flow, self._record
            if flow is None:
                return
            call = Call()
            record.calls.setdefault(name, []).append(call)
            given = args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))
            tensor = given.data if isinstance(given, PackedSequence) else given
            if isinstance(tensor, Tensor):
                call.input_value = flow.value(tensor)
                call.problem = _unusual_call(record.types.get(name), tensor, args, kwargs)
            else:
                call.problem = "called without a tensor"
            flow.scopes.append(name)

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            flow = self._flow
            if flow is None:
                return
            while flow.scopes and flow.scopes.pop() != name:
                continue
            if isinstance(output, Tensor):
                self._record.calls[name][-1].output_value = flow.value(output)

        return before, after


def record_calls(model: nn.Module, batch: Batch) -> CallRecord:
    """Run the model once, leaving it and its inputs as they were, and note every call of an operator or leaf module.

    Raises:
        ModelError: a parameter is not initialized yet (lazy modules).
    """
    watcher = CallWatcher(model)
    with untouched(model, batch.args, batch.kwargs), watcher.installed():
        watcher.begin()
        output = call(model, batch)
        record = watcher.end()
        del output
    return record


def _candidates(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Operator types by name, and the reasons of operators that cannot be quantized whatever their calls."""
    types, skipped = {}, {}
    for name, module in model.named_modules():
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module._parameters.values()):
            where = repr(name) if name else "the model"
            raise ModelError(f"{where} has uninitialized parameters. Run the model once, or load its weights.")
        if "weight" in module._modules and "table" not in module._modules["weight"]._parameters:
            continue  # all that it does with its weight is an operator of its own
        kind = operator_type(module)
        base = base_type(module)
        reason = _unfit(module, base) if base is not None else None
        if reason is None and kind is None and base is not None:
            reason = f"{type(module).__qualname__} is not a plain {base}"
        if reason is not None:
            skipped[name] = reason
        elif kind is not None:
            types[name] = kind
    return types, skipped


def _weights(module: nn.Module) -> list[Tensor | None]:
    """The weights of a module of a quantizable class; None for one that is no parameter."""
    base = base_type(module)
    names = () if base is None else OPERATORS[base].weights(module)
    return [module._parameters.get(name) for name in names]


def _unfit(module: nn.Module, base: str) -> str | None:
    """Why a module of a quantizable class cannot be replaced, as far as is known before the model runs."""
    if "weight" in module._modules:
        return "its weight is also that of a product, which is an operator of its own; looked up in fp32"
    weights = {name: module._parameters.get(name) for name in OPERATORS[base].weights(module)}
    for name, weight in weights.items():
        if weight is None:
            return f"its {name} is computed from other parameters, and differently each time"
        if weight.dtype not in WEIGHT_DTYPES:
            return f"its {name} is {weight.dtype}, not float32, bfloat16 or float16"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, which a replaced module would lose"
    if getattr(module, "max_norm", None) is not None:
        return "max_norm rewrites its weight at run time"
    if not is_replaceable(module):
        return "its class has __slots__"
    return None


def _is_leaf(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule) and not module._modules


_FURTHER_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **{f"ConvTranspose{dimensions}d": ("output_size",) for dimensions in (1, 2, 3)},
    "EmbeddingBag": ("offsets", "per_sample_weights"),
}
"""What forms of an operator take beside its input."""


def _unusual_call(kind: str | None, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    if kind in RECURRENT_TYPES:  # whose forms take the same keywords
        if len(args) > 2 or {*kwargs} - {"input", "hx"}:
            return "called with more than its input and initial state"
    elif not args:
        return "its input is passed by keyword"
    elif len(args) > 1 + len(further := _FURTHER_ARGUMENTS.get(kind or "", ())) or {*kwargs} - {*further}:
        return " and ".join(["called with more than its input", *further])
    if tensor.is_nested:
        return "called with a nested tensor"
    if kind not in TABLE_TYPES and tensor.dtype not in WEIGHT_DTYPES:
        return f"its input is {tensor.dtype}, not float32, bfloat16 or float16"
    return None


def _skip_unusable(record: CallRecord, flow: DataFlow) -> None:
    for name in list(record.types):
        calls = record.calls.get(name, [])
        problem = next((call.problem for call in calls if call.problem), None)
        if not calls:
            problem = NOT_RUN
        if problem is not None:
            record.skipped[name] = problem
    record.skipped |= flow.foreign_reads
    record.foreign = frozenset(flow.foreign_reads)
    for name in record.skipped:
        record.types.pop(name, None)
