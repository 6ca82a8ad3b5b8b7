"""Weights that belong to no operator of a known type, such as those of nn.Bilinear: who has them, and why they stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from inc_autotune.torch_ext.model import expansions
from inc_autotune.torch_ext.model.parameter_modules import ParameterModule

_PARAMETRIZED = ".parametrizations."


@dataclass(frozen=True)
class OtherWeights:
    """A module, or a parameter of the model itself, that stays in fp32 because nothing here quantizes it.

    Args:
        type: the module's class; of a parameter the model's.
        reason: why it stays.
    """

    type: str
    reason: str


def weights_by_owner(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Weights by the name of the module that has them, and by their own name in it.

    Weights are parameters of two dimensions, or of more of which two are longer than 1: no gains and no biases. What a
    parametrization (weight norm, say) computes a weight from belongs to the module with that weight, and a table that a
    product keeps to the module that had it. A parameter of the model itself stands under its own name.
    """
    found: dict[str, dict[str, Tensor]] = {}
    # By modules, so that one which goes by several names stands once.
    for path, module in model.named_modules():
        owner, _, within = f"{path}.".partition(_PARAMETRIZED)
        table = path.rpartition(".")[0] or f"{path}.table"
        for name, parameter in module._parameters.items():
            if parameter is not None and not nn.parameter.is_lazy(parameter) and is_weight(parameter):
                is_table = isinstance(module, ParameterModule) and name == "table"
                place = table if is_table else owner.removesuffix(".") or within + name
                found.setdefault(place, {})[within + name] = parameter
    return found


def other_weights(
    model: nn.Module,
    known: Collection[str],
    expansion_problem: str | None = None,
    refused: Mapping[str, str] | None = None,
) -> dict[str, OtherWeights]:
    """The owners of weights that are none of the `known` operators, by name.

    Args:
        model: expanded, unless there is an `expansion_problem`.
        known: names of operators.
        expansion_problem: why modules with hidden products are as they are.
        refused: why functions that read a parameter are no operators, by the parameter's path.
    """
    found = expansions(model)
    reasons = {**found.problems, **dict.fromkeys(found.forms, expansion_problem)}
    return dict(_others(model, weights_by_owner(model), known, reasons, refused or {}))


def _others(
    model: nn.Module,
    owners: Mapping[str, Mapping[str, Tensor]],
    known: Collection[str],
    reasons: Mapping[str, str | None],
    refused: Mapping[str, str],
) -> Iterator[tuple[str, OtherWeights]]:
    modules = dict(model.named_modules())
    for owner, weights in owners.items():
        if owner in known or (owner in weights and "" in known):
            continue
        module = modules.get(owner, model)
        reason = reasons.get(owner) or _reason(module, list(weights))
        if owner.endswith(".table") and owner not in modules:
            reason = "rows of it are looked up in fp32, beside the product"
        paths = (name if owner in weights else f"{owner}.{name}" for name in weights)
        why = [f": {path.rpartition('.')[2]} {refused[path]}" for path in paths if path in refused]
        yield owner, OtherWeights(type(module).__name__, reason + "".join(why[:1]))


def _reason(module: nn.Module, names: list[str]) -> str:
    kind = type(module)
    if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
        return "the model uses these parameters in code of its own"
    if kind.__module__.startswith("torch.nn.modules"):
        return f"{kind.__name__} has no quantized form here"
    return f"{kind.__name__} uses {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} in code of its own"


def is_weight(parameter: Tensor) -> bool:
    """Whether a parameter is no gain and no bias: of two dimensions, or of more of which two are longer than 1."""
    return parameter.dim() == 2 or sum(size > 1 for size in parameter.shape) > 1
