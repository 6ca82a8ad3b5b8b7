"""Copies of a model that share the weights, with some modules turned into others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.model.fast_path import disable_fast_paths
from inc_autotune.torch_ext.model.parameter_products import ParameterProduct, install_products
from inc_autotune.torch_ext.model.parametrizations import fold_parametrizations

CARRIED = "_carried"
"""Attribute of a form of a module with the names of what it has from the module."""

_TABLES = ("_parameters", "_buffers", "_modules")


def shared_copy(model: nn.Module, *, own_buffers: bool = False) -> nn.Module:
    """A copy of the module tree over the memory of the original.

    Parameters are objects of their own, so that gradients, `requires_grad_` and `.to()` of a copy stay with the copy. A
    module or tensor that the original has once, under several names, the copy has once too. Functions are not copied: a
    closure over the model, or a method that was compiled, still runs the original.

    Args:
        model: stays as it is.
        own_buffers: give the copy's buffers memory of their own, so that a forward pass that writes into buffers
            changes no other model. False: they lie in the memory of the original's.

    Raises:
        ModelError: some attribute of the model cannot be copied.
    """
    memo: dict[int, object] = {id(parameter): _same_memory(parameter) for parameter in model.parameters()}
    memo |= {id(buffer): buffer.detach().clone() if own_buffers else _alias(buffer) for buffer in model.buffers()}
    try:
        with _SharedActivations():
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"model: {type(model).__name__} cannot be copied: {type(error).__name__}: {error}. autotune works on a "
            "copy so that your model stays as it is: remove the attribute that copy.deepcopy cannot handle."
        ) from error


def base_model(
    model: nn.Module,
    batch_norms: Mapping[str, str],
    products: Iterable[ParameterProduct] = (),
    *,
    fast_paths: bool = False,
) -> nn.Module:
    """The fp32 model candidates are made from, which shares the user's tensors.

    Weights that are computed from other parameters are computed, batch norms folded, and products with parameters have
    modules in the parameters' places.

    Args:
        model: stays as it is.
        batch_norms: see `fold_batch_norms`.
        products: see `install_products`.
        fast_paths: keep torch's fused encoder layers, in which no module may be replaced or watched.
    """
    base = install_products(fold_parametrizations(shared_copy(model)), products)
    fold_batch_norms(base, batch_norms)
    if not fast_paths:
        disable_fast_paths(base)
    return base


def own_tensors(model: nn.Module) -> nn.Module:
    """Give the tensors of a model memory of their own, in place; tied parameters stay tied.

    The objects stay the same where torch allows it, so that whatever else holds one, such as a list, a tuple or a
    `functools.partial` of the model, holds what the model trains, loads and saves.
    """
    copies: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in copies:
                    copies[id(tensor)] = _moved(tensor)
                table[name] = copies[id(tensor)]  # type: ignore[assignment]
    return model


def _moved(tensor: Tensor) -> Tensor:
    """The tensor with its numbers in other memory; a new one if it was made in inference mode, which fixes it."""
    if not tensor.is_inference():
        tensor.data = tensor.detach().clone()
        return tensor
    twin = tensor.detach().clone()
    return nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def replace_modules(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Turn the named modules into others, in place.

    Other names, plain lists and dicts, and bound methods that refer to a named module run the new form. What two
    replacements share, such as packed weights, stays shared, but for hooks and the tables of tensors. What a new form
    has from the module it was made from (`CARRIED`), such as children, stays that of the module.

    Args:
        model: must have modules of these names for which `is_replaceable` is true.
        replacements: by name; these objects stay as they are.

    Returns:
        The model, changed in place.
    """
    for name, replacement in replacements.items():
        module = model.get_submodule(name)
        attributes: dict[str, Any] = {
            key: copy.copy(value) if isinstance(value, (dict, set)) else value
            for key, value in replacement.__dict__.items()
        }
        for own in attributes.get(CARRIED, ()):
            for table, values in (
                (attributes, module.__dict__),
                *((attributes[t], module.__dict__[t]) for t in _TABLES),
            ):
                if own in values:
                    table[own] = values[own]
        object.__setattr__(module, "__class__", type(replacement))
        module.__dict__.clear()
        module.__dict__.update(attributes)
    return model


def is_replaceable(module: nn.Module) -> bool:
    """Whether a module can be turned into one of another class; False if the class of the module has `__slots__`."""
    return not any(vars(cls).get("__slots__") for cls in type(module).__mro__)


def convert_modules(model: nn.Module, convert: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace every module for which `convert` returns another one; returns the model, changed in place."""
    converted = {name: convert(module) for name, module in model.named_modules()}
    return replace_modules(model, {name: module for name, module in converted.items() if module is not None})


@torch.no_grad()
def fold_batch_norms(model: nn.Module, batch_norms: Mapping[str, str]) -> nn.Module:
    """Fold BatchNorms into the convolutions before them, and turn them into Identities; returns the model.

    The convolutions get new parameters, so models that share tensors with this one stay as they are.

    Args:
        model: changed in place.
        batch_norms: name of the BatchNorm by name of the convolution; nothing else reads the convolution's output.
    """
    for conv_name, norm_name in batch_norms.items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        weight: Any = conv.weight
        transposed = isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        groups: Any = conv.groups if transposed else 1
        if groups > 1:
            # [in, out / groups, ...] as [in / groups, out, ...]: `fuse_conv_bn_weights` knows no groups.
            weight = nn.Parameter(torch.cat(weight.chunk(groups), dim=1), weight.requires_grad)
        fused, conv.bias = fuse_conv_bn_weights(
            weight,
            conv.bias,  # type: ignore[arg-type]
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,  # type: ignore[arg-type]
            norm.weight,  # type: ignore[arg-type]
            norm.bias,  # type: ignore[arg-type]
            transpose=transposed,
        )
        if groups > 1:
            fused = nn.Parameter(torch.cat(fused.chunk(groups, dim=1)), fused.requires_grad)
        conv.weight = fused
    return replace_modules(model, {name: nn.Identity().eval() for name in batch_norms.values()})


def _alias(buffer: Tensor) -> Tensor:
    """Another tensor over the same memory."""
    twin = buffer.detach()
    twin.__dict__.update(buffer.__dict__)
    return twin


def _same_memory(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter over the same memory, without gradient."""
    # Tensors made in inference mode take no gradients, whatever their flag says.
    requires_grad = parameter.requires_grad and not parameter.is_inference()
    twin = nn.Parameter(parameter.detach(), requires_grad=requires_grad)
    twin.__dict__.update(parameter.__dict__)
    return twin


class _SharedActivations(TorchFunctionMode):
    """A mode in which `copy.deepcopy` takes tensors that autograd computed, which torch refuses to copy.

    A model holds such tensors if it keeps an activation, or computes a weight from other parameters. The copied model
    gets tensors over the same memory, without the history.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach()
        return func(*args, **(kwargs or {}))
