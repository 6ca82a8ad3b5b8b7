"""Whether a model can be tuned at all, found before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.torch_ext.modules import is_prepared, is_quantized

QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")


def check_model(model: Any) -> nn.Module:
    """The model, if it is an fp32 eager module on the CPU in eval mode.

    Raises:
        ArgumentError: it is not an eager `torch.nn.Module`.
        ModelError: it is in train mode, on another device, not fp32, or already quantized.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError("model: is a TorchScript module. Pass the eager nn.Module; trace after convert().")
    if hasattr(model, "_orig_mod"):
        raise ArgumentError("model: is the result of torch.compile. Pass the eager nn.Module; compile after convert().")
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model: is a {type(model).__module__}.{type(model).__qualname__}. Allowed: a torch.nn.Module."
        )
    for name, module in model.named_modules():
        if is_quantized(module) or type(module).__module__.startswith(QUANTIZED_PACKAGES):
            raise ModelError(
                f"model: is already quantized: {name or 'the model'} is a {type(module).__name__}. Pass the fp32 model."
            )
        if is_prepared(module):
            raise ModelError(
                f"model: is the result of autotune already ({name}). Call convert() on it, or pass the fp32 model."
            )
    _check_mode(model)
    _check_tensors(model)
    return model


def _check_mode(model: nn.Module) -> None:
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"model: is in train mode ({training[0]}{', ...' if len(training) > 1 else ''}), so dropout and batch "
            "norm would act as in training. Call model.eval() first."
        )


def _check_tensors(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ModelError(f"model: {name} is on the meta device, it has no values. Load the weights first.")
        if tensor.device.type != "cpu":
            raise ModelError(f"model: {name} is on {tensor.device}. Allowed: cpu. Call model.cpu() first.")
    half = [name for name, parameter in model.named_parameters() if parameter.dtype in (torch.float16, torch.bfloat16)]
    if half:
        dtype = model.get_parameter(half[0]).dtype
        raise ModelError(f"model: {half[0]} is {dtype}. Allowed: torch.float32. Call model.float() first.")
