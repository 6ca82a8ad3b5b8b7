"""Whether a model can be tuned at all, found before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, cast

import torch
from torch import nn

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.torch_ext.model import HALF_DTYPES
from inc_autotune.torch_ext.modules import is_prepared, is_quantized
from inc_autotune.torch_ext.operators import WEIGHT_DTYPES, operator_type

QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")


def check_model(model: Any) -> nn.Module:
    """The model, if it is an eager module in fp32, bf16 or fp16 on the CPU in eval mode.

    Raises:
        ArgumentError: it is not an eager `torch.nn.Module`.
        ModelError: it is in train mode, on another device, in float64 or float8, already quantized, or holds NaN.
    """
    check_architecture(model)
    _check_mode(model)
    _check_values(model)
    return cast(nn.Module, model)


def check_full_precision(model: nn.Module, purpose: str) -> None:
    """Refuse half precision where the purpose does not bear it.

    Args:
        model: of floating-point parameters.
        purpose: how the message names it, such as `train_func`.

    Raises:
        ModelError: the model has parameters in bf16 or fp16.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in HALF_DTYPES:
            raise ModelError(f"model: {name} is {parameter.dtype}, and {purpose}. Call model.float() first.")


def check_architecture(model: Any) -> nn.Module:
    """The model, if it is an eager module on the CPU that is not quantized, whatever its mode and its numbers.

    Raises:
        ArgumentError: it is not an eager `torch.nn.Module`.
        ModelError: it is on another device, not initialized, or already quantized.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError("model: is a TorchScript module. Pass the eager nn.Module; trace after convert().")
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model={shown(model)}: not a model. Allowed: a torch.nn.Module.{_remedy(model)}")
    if isinstance(model, torch.fx.GraphModule) and "eval" in model.__dict__:
        # Its `eval` and `train` raise, and its operators are calls of functions.
        raise ArgumentError("model: is the result of torch.export. Pass the eager nn.Module; export after convert().")
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            # Its copies would run the original: what it compiled holds on to that.
            raise ArgumentError(
                f"model: {name}{' ' if name else ''}is the result of torch.compile. Pass the eager nn.Module; compile "
                "after convert()."
            )
        if is_quantized(module) or type(module).__module__.startswith(QUANTIZED_PACKAGES):
            raise ModelError(
                f"model: is already quantized: {name or 'the model'} is a {type(module).__name__}. Pass the fp32 model."
            )
        if is_prepared(module):
            raise ModelError(
                f"model: is the result of autotune already ({name}). Call convert() on it, or pass the fp32 model."
            )
    _check_devices(model)
    return model


def _remedy(value: Any) -> str:
    if isinstance(value, type):
        return f" Pass an instance: {value.__name__}(...)."
    if isinstance(value, (str, PathLike)):
        return " Build the model and load its weights first; inc_autotune.torch_ext.load reads what save wrote."
    if isinstance(value, Mapping):
        return " Build the model and load the weights into it: model.load_state_dict(...)."
    return ""


def _check_mode(model: nn.Module) -> None:
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"model: is in train mode ({training[0]}{', ...' if len(training) > 1 else ''}), so dropout and batch "
            "norm would act as in training. Call model.eval() first."
        )


def _check_devices(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"model: {name} is not initialized yet. Run the model once, or load its weights.")
        if tensor.is_meta:
            raise ModelError(f"model: {name} is on the meta device, it has no values. Load the weights first.")
        if tensor.device.type != "cpu":
            raise ModelError(f"model: {name} is on {tensor.device}. Allowed: cpu. Call model.cpu() first.")


def _check_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in WEIGHT_DTYPES:
            raise ModelError(
                f"model: {name} is {parameter.dtype}. Allowed: torch.float32, torch.bfloat16, torch.float16. Call "
                "model.float() first."
            )
    for name, module in model.named_modules():
        if operator_type(module) is None:
            continue
        for own, parameter in module._parameters.items():
            if parameter is not None and not _is_finite(parameter):
                place = f"{name}.{own}" if name else own
                raise ModelError(f"model: {place} holds NaN or infinity. Load weights from before training diverged.")


@torch.no_grad()
def _is_finite(tensor: torch.Tensor) -> bool:
    """Without a temporary of the tensor's size."""
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())
