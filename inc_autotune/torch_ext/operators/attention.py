"""Which modules of a model call `F.scaled_dot_product_attention`, and whether products of bfloat16 serve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inc_autotune.torch_ext.data import Batch, call
from inc_autotune.torch_ext.model import is_replaceable, shared_copy
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.target.attention import AttentionCall, attention_problem, in_bf16, is_worth_it, takes

LARGEST_ERROR = 1e-4
"""Squared error over squared output with which attention stays in float32; products of int8 have ten times as much."""


@dataclass
class FoundAttention:
    """What calls of attention came to.

    Args:
        able: names of the modules that can compute it in bfloat16, and gain by it.
        reasons: why others stay in float32, by name.
        error: the largest of those that are able.
    """

    able: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    error: float = 0.0

    def notes(self) -> list[str]:
        """What a result should say of it."""
        if not self.able and not self.reasons:
            return []
        count = len(self.able) + len(self.reasons)
        note = f"attention: {len(self.able)} of {count} modules in bf16"
        if self.able:
            note += f", with a relative squared error of at most {self.error:.1e}; traced and exported in fp32"
        if self.reasons:
            name, reason = next(iter(self.reasons.items()))
            note += f"; {name!r} in fp32: {reason}"
        return [note]


@dataclass
class _Calls:
    """Of one module."""

    error: float = 0.0
    gains: bool = False
    problem: str | None = None


def find_attention(model: nn.Module, batches: Sequence[Batch]) -> FoundAttention:
    """Run a copy of a model and compare each call of attention with the same in bfloat16.

    Args:
        model: stays as it is.
        batches: inputs.
    """
    watched = shared_copy(model, own_buffers=True)
    modules = dict(watched.named_modules())
    watcher = _Watcher()
    for batch in batches:
        inputs = batch.copy()
        with untouched(watched, inputs.args, inputs.kwargs), watcher.installed(modules), watcher:
            call(watched, inputs)
    return _judged(watcher.calls, modules)


class _Watcher(TorchFunctionMode):
    """Notes which module calls attention, and how exact bfloat16 is there."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, _Calls] = {}
        self._running: list[str] = []

    @contextmanager
    def installed(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Hooks that tell which module runs, for the duration of the context."""
        with ExitStack() as stack:
            for name, module in modules.items():
                if isinstance(module, torch.jit.ScriptModule):
                    continue

                def enter(_: nn.Module, __: Any, name: str = name) -> None:
                    self._running.append(name)

                def leave(*_: Any) -> None:
                    self._running.pop()

                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            yield

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            calls = self.calls.setdefault(self._running[-1] if self._running else "", _Calls())
            _compare(calls, output, AttentionCall(*args, **(kwargs or {})))
        return output


def _compare(calls: _Calls, output: Tensor, call: AttentionCall) -> None:
    if not takes(call.query, call.key, call.value, call.attn_mask):
        calls.problem = "of another type or shape than the kernel takes"
    elif call.dropout_p:
        calls.problem = "it drops some of its weights"
    elif is_worth_it(call.query, call.key):
        problem = attention_problem()
        if problem is not None:
            calls.problem = problem
            return
        calls.gains = True
        size = float(output.square().sum())
        calls.error = max(calls.error, float((in_bf16(call) - output).square().sum()) / size if size else 0.0)


def _judged(calls: Mapping[str, _Calls], modules: Mapping[str, nn.Module]) -> FoundAttention:
    reasons: dict[str, str] = {}
    for name, each in calls.items():
        problem = each.problem or _unfit(modules[name])
        if problem is not None:
            reasons[name] = problem
        elif not each.gains:
            reasons[name] = "its sequences are too short to gain"
        elif not each.error <= LARGEST_ERROR:
            reasons[name] = f"a relative squared error of {each.error:.1e} in bf16"
    # A module passes on to those inside it how attention is computed.
    for name in [name for name in calls if name not in reasons]:
        prefix = f"{name}." if name else ""
        inside = sorted(other for other in reasons if other != name and other.startswith(prefix))
        if inside:
            reasons[name] = f"{inside[0]!r} inside it stays in fp32"
    able = tuple(name for name in calls if name not in reasons)
    return FoundAttention(able, reasons, max((calls[name].error for name in able), default=0.0))


def _unfit(module: nn.Module) -> str | None:
    """Why a module cannot get another class."""
    if isinstance(module, torch.jit.ScriptModule) or not is_replaceable(module):
        return "its class cannot be replaced"
    return "its forward was replaced on the instance" if "forward" in module.__dict__ else None
