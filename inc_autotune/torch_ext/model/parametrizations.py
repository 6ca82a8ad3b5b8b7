"""Weights that are computed from other parameters, computed once: in evaluation mode they are constant."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from inc_autotune.torch_ext.model.untouched import untouched


@torch.no_grad()
def fold_parametrizations(model: nn.Module) -> nn.Module:
    """Turn every computed weight of a model into a plain parameter with the numbers it has, in place.

    Folded are `torch.nn.utils.parametrize` and all that is built on it (weight norm, spectral norm, orthogonal and the
    user's own), the older weight norm and spectral norm that work by hooks, and pruning. A weight stays as it is if
    computing it twice gives two results, or fails.

    Args:
        model: a copy in evaluation mode; parameters that it shares with another model keep their numbers there.

    Returns:
        The model.
    """
    for module in list(model.modules()):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        if parametrize.is_parametrized(module):
            _fold_parametrized(module)
        for hook, name in list(_folding_hooks(module)):
            _fold_hook(module, hook, name)
    return model


def _fold_parametrized(module: nn.Module) -> None:
    tables = module.parametrizations
    assert isinstance(tables, nn.ModuleDict)
    constants = {name: _constant(module, name) for name in tables}
    values = {name: value for name, value in constants.items() if value is not None}
    if len(values) < len(constants):
        return
    trained = {name: any(each.requires_grad for each in tables[name].parameters()) for name in values}
    del module._modules["parametrizations"]
    # Not torch's own way back, which takes the property off a class that the copied model has too.
    object.__setattr__(module, "__class__", type(module).__bases__[0])
    for name, value in values.items():
        if trained[name] or isinstance(getattr(tables[name], "original", nn.Parameter()), nn.Parameter):
            module.register_parameter(name, nn.Parameter(value, trained[name]))
        else:
            module.register_buffer(name, value)


def _constant(module: nn.Module, name: str) -> Tensor | None:
    """The value of a parametrized tensor; None if it is not the same each time."""
    try:
        with untouched(module):
            one, other = getattr(module, name), getattr(module, name)
    except Exception:  # whatever a parametrization of the user's raises
        return None
    if not isinstance(one, Tensor) or not torch.equal(one, other):
        return None
    return one.detach().clone()


def _folding_hooks(module: nn.Module) -> Iterator[tuple[object, str]]:
    """Hooks that compute a weight before each call, with the weight's name."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            yield hook, hook.name
        elif isinstance(hook, prune.BasePruningMethod):
            yield hook, hook._tensor_name


def _fold_hook(module: nn.Module, hook: object, name: str) -> None:
    if isinstance(hook, WeightNorm):
        remove_weight_norm(module, name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(module, name)
    else:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
