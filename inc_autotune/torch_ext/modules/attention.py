"""Modules whose attention is computed with products of bfloat16."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Collection, Mapping
from types import FrameType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inc_autotune.core.errors import RecipeError
from inc_autotune.torch_ext.model.layer import become
from inc_autotune.torch_ext.target.attention import AttentionCall, attention_problem, in_bf16, is_worth_it, takes

logger = logging.getLogger(__name__)


class Bf16Attention(nn.Module):
    """A module that calls `F.scaled_dot_product_attention`: a class that stands before the module's own.

    What else it computes stays as it is. With gradients, in a trace and in an exported program the attention is that of
    torch in float32: a gradient needs its own kernel, and the others run where this library is not installed.
    """

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        with _Bf16Products():
            return super().forward(*arguments, **keywords)


class _Bf16Products(TorchFunctionMode):
    """A mode in which `F.scaled_dot_product_attention` multiplies in bfloat16 wherever it can."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attend(AttentionCall(*args, **(kwargs or {})))
        name = getattr(func, "__name__", "")
        if name in _PYTHON_METHODS and getattr(Tensor, name) is func:
            return getattr(args[0], name)(*args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


_PYTHON_METHODS = frozenset(name for name, each in vars(Tensor).items() if isinstance(each, FunctionType))
"""Methods that torch wrote in Python: `torch.compile` knows how to call them, and not how they are written."""


def _attend(call: AttentionCall) -> Tensor:
    read = (call.query, call.key, call.value)
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in read)
    if (
        _is_written_down()
        or needs_gradient
        or call.dropout_p
        or (call.is_causal and call.attn_mask is not None)
        or not takes(*read, call.attn_mask)
        or not is_worth_it(call.query, call.key)
        or _is_compared_with_trace()
    ):
        # Field by field, since torch.compile of torch 2.8 takes no slices of named tuples.
        return F.scaled_dot_product_attention(
            *(*read, call.attn_mask, call.dropout_p, call.is_causal), scale=call.scale, enable_gqa=call.enable_gqa
        )
    return in_bf16(call)


def _is_written_down() -> bool:
    """Whether the module becomes a program that runs without this library."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _is_compared_with_trace() -> bool:
    """Whether `torch.jit.trace` calls the module to see whether the trace is right, and would warn of bfloat16."""
    if torch.compiler.is_compiling():
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not _CHECK:
        frame = frame.f_back
    return frame is not None


_CHECK = getattr(inspect.unwrap(getattr(torch.jit._trace, "_check_trace", abs)), "__code__", None)


def with_bf16_attention(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Compute the attention of some modules in bfloat16, in place; where the kernel is missing, float32 does it.

    Args:
        model: a copy of the user's, perhaps with other operators replaced.
        names: of modules that call `F.scaled_dot_product_attention`.

    Returns:
        The model.

    Raises:
        RecipeError: the model has no such module.
    """
    if not names:
        return model
    modules = dict(model.named_modules())
    for name in names:
        module = modules.get(name)
        if module is None:
            raise RecipeError(f"recipe: {name!r} is no module of the model. Is it the same model?")
        if not isinstance(module, Bf16Attention):
            become(module, Bf16Attention, type(module))
    problem = attention_problem()
    if problem is not None:
        logger.warning("attention was tuned in bfloat16, and is computed in float32 here: %s", problem)
    return model


def without_bf16_attention(model: nn.Module) -> nn.Module:
    """Give modules back the classes that they had before `with_bf16_attention`, in place; returns the model."""
    for module in model.modules():
        if isinstance(module, Bf16Attention):
            object.__setattr__(module, "__class__", type(module)._joined[1])  # type: ignore[attr-defined]
    return model
