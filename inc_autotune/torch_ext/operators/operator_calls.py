"""The calls of quantizable operators in one forward pass, and why some operators cannot be quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.model.copies import is_replaceable
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.operators.data_flow import DataFlow, Value
from inc_autotune.torch_ext.operators.types import operator_type


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
    """

    types: dict[str, str]
    skipped: dict[str, str]
    calls: dict[str, list[Call]] = field(default_factory=dict)

    def only_output(self, name: str) -> Value | None:
        """What a module returned; None if the module was not called exactly once."""
        calls = self.calls.get(name, [])
        return calls[0].output_value if len(calls) == 1 else None


def record_calls(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallRecord:
    """Run the model once, leaving it as it was, and note every call of an operator or leaf module.

    Raises:
        ModelError: a parameter is not initialized yet (lazy modules).
    """
    record = _candidates(model)
    modules = dict(model.named_modules())
    operators = [*record.types, *record.skipped]
    names = dict.fromkeys([*operators, *(name for name, module in modules.items() if _is_leaf(module))])
    flow = DataFlow([(modules[name]._parameters["weight"], name) for name in operators if _has_weight(modules[name])])
    with untouched(model, args, kwargs), _watching(modules, names, flow, record):
        with flow:
            output = model(*args, **kwargs)
        flow.mark_kept()
        del output
    _skip_unusable(record, flow)
    return record


def _has_weight(module: nn.Module) -> bool:
    return module._parameters.get("weight") is not None


def _candidates(model: nn.Module) -> CallRecord:
    types, skipped = {}, {}
    for name, module in model.named_modules():
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module._parameters.values()):
            where = repr(name) if name else "the model"
            raise ModelError(f"{where} has uninitialized parameters. Run the model once, or load its weights.")
        kind = operator_type(module)
        base = _quantizable_base(module)
        reason = _unfit(module) if kind is not None or base is not None else None
        if reason is None and kind is None and base is not None:
            reason = f"{type(module).__qualname__} is not a plain {base} with float32 parameters"
        if reason is not None:
            skipped[name] = reason
        elif kind is not None:
            types[name] = kind
    return CallRecord(types, skipped)


def _quantizable_base(module: nn.Module) -> str | None:
    """Name of the quantizable class that `module` is an instance of, subclasses included."""
    bases = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return next((base.__name__ for base in (*bases, *transposed) if isinstance(module, base)), None)


def _unfit(module: nn.Module) -> str | None:
    """Why a module of a quantizable class cannot be replaced, as far as is known before the model runs."""
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from other parameters (parametrization, weight_norm, spectral_norm or pruning)"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, not torch.float32"
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


@contextmanager
def _watching(
    modules: Mapping[str, nn.Module], names: Iterable[str], flow: DataFlow, record: CallRecord
) -> Iterator[None]:
    """Hooks that note calls and keep `flow.scopes` up to date; removed on leaving, whatever happens."""
    with ExitStack() as hooks:
        for name in names:
            module = modules[name]
            before, after = _hooks(name, flow, record)
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after, with_kwargs=True, always_call=True).remove)
        yield


def _hooks(name: str, flow: DataFlow, record: CallRecord) -> tuple[Any, Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call()
        record.calls.setdefault(name, []).append(call)
        given = [*args, *kwargs.values()]
        if given and isinstance(given[0], Tensor):
            call.input_value = flow.value(given[0])
            call.problem = _unusual_call(record.types.get(name), given[0], args, kwargs)
        else:
            call.problem = "called without a tensor"
        flow.scopes.append(name)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        while flow.scopes and flow.scopes.pop() != name:
            continue
        if isinstance(output, Tensor):
            record.calls[name][-1].output_value = flow.value(output)

    return before, after


def _unusual_call(kind: str | None, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    if not args:
        return "its input is passed by keyword"
    if len(args) > 1 or kwargs:
        return "called with more than its input"
    if tensor.is_nested:
        return "called with a nested tensor"
    if kind != "Embedding" and tensor.dtype != torch.float32:
        return f"its input is {tensor.dtype}, not torch.float32"
    return None


def _skip_unusable(record: CallRecord, flow: DataFlow) -> None:
    for name in list(record.types):
        calls = record.calls.get(name, [])
        problem = next((call.problem for call in calls if call.problem), None)
        if not calls:
            problem = "not run with the example inputs"
        if problem is not None:
            record.skipped[name] = problem
    for name, reader in flow.foreign_reads.items():
        record.skipped[name] = f"its weight is read outside the module, by {reader}"
    for name in record.skipped:
        record.types.pop(name, None)
