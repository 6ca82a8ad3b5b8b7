"""Copies of a model that share its weights, with some modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from inc_autotune.core.errors import ModelError


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose parameters and buffers are the very tensors of the original.

    Raises:
        ModelError: some attribute of the model cannot be copied.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"model: {type(model).__name__} cannot be copied: {type(error).__name__}: {error}. autotune works on a "
            "copy so that your model stays as it is: remove the attribute that copy.deepcopy cannot handle."
        ) from error


def own_buffers(model: nn.Module) -> nn.Module:
    """Give a model buffers of its own, in place: a forward pass that writes into them then changes no other model."""
    copies: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone()
                module._buffers[name] = copies[id(buffer)]
    return model


def replace_modules(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Put modules in place of the named ones, wherever those are registered (a module can have several names).

    Returns:
        The model, changed in place; or the replacement of the root, whose name is the empty string.
    """
    by_identity = {id(model.get_submodule(name)): module for name, module in replacements.items()}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in by_identity:
                parent._modules[name] = by_identity[id(child)]
    return by_identity.get(id(model), model)


def convert_modules(model: nn.Module, convert: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace every module for which `convert` returns another one; returns the model, changed in place."""
    converted = {name: convert(module) for name, module in model.named_modules()}
    return replace_modules(model, {name: module for name, module in converted.items() if module is not None})


@torch.no_grad()
def fold_batch_norms(model: nn.Module, batch_norms: Mapping[str, str]) -> nn.Module:
    """Fold each BatchNorm into the convolution before it, and leave an Identity in its place; returns the model.

    The convolutions are replaced by new ones, so a model that shares tensors with this one is not touched.

    Args:
        batch_norms: name of the BatchNorm by name of the convolution whose output only it reads.
    """
    replacements: dict[str, nn.Module] = {}
    for conv_name, norm_name in batch_norms.items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        folded = copy.copy(conv)
        folded._parameters = dict(conv._parameters)
        folded.weight, folded.bias = fuse_conv_bn_weights(
            conv.weight,  # type: ignore[arg-type]
            conv.bias,  # type: ignore[arg-type]
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,  # type: ignore[arg-type]
            norm.weight,  # type: ignore[arg-type]
            norm.bias,  # type: ignore[arg-type]
            transpose=isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        )
        replacements[conv_name], replacements[norm_name] = folded, nn.Identity()
    return replace_modules(model, replacements)
