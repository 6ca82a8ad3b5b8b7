"""Modules whose products are hidden inside torch's code become modules whose products are `nn.Linear` children."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.model.copies import is_replaceable, shared_copy
from inc_autotune.torch_ext.model.expanded_attention import ExpandedAttention
from inc_autotune.torch_ext.model.expanded_bilinear import ExpandedBilinear
from inc_autotune.torch_ext.model.expanded_cells import ExpandedGRUCell, ExpandedLSTMCell, ExpandedRNNCell
from inc_autotune.torch_ext.model.expanded_form import ExpandedForm, Parts
from inc_autotune.torch_ext.model.fast_path import disable_fast_paths
from inc_autotune.torch_ext.model.layer import become, joined_class, names_of
from inc_autotune.torch_ext.model.packed_encoder import PackedEncoder, can_pack

_FORMS: Mapping[type[nn.Module], type[ExpandedForm]] = MappingProxyType(
    {
        nn.MultiheadAttention: ExpandedAttention,
        nn.Bilinear: ExpandedBilinear,
        nn.LSTMCell: ExpandedLSTMCell,
        nn.GRUCell: ExpandedGRUCell,
        nn.RNNCell: ExpandedRNNCell,
    }
)


@dataclass(frozen=True)
class Expansions:
    """What of a model can be expanded.

    Args:
        forms: by name of the module, what it becomes.
        problems: by name, why another module of a class with such a form stays as it is.
    """

    forms: Mapping[str, type[ExpandedForm]]
    problems: Mapping[str, str]


def expansions(model: nn.Module) -> Expansions:
    """What of a model can be expanded, and what not; the model stays as it is."""
    bases = {name: base for name, module in model.named_modules() if (base := _base(module)) is not None}
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), set()).add(name)
    forms, problems = {}, {}
    for name, base in bases.items():
        problem = _problem(model.get_submodule(name), base, owners, bases)
        if problem is None:
            forms[name] = _FORMS[base]
        else:
            problems[name] = problem
    return Expansions(forms, problems)


def expand(model: nn.Module, operators: Collection[str] | None = None) -> nn.Module:
    """Expand modules with hidden products, and take torch's fused paths from layers of replaced modules, in place.

    An expanded module is still an instance of its class, with its attributes, hooks and signature. Its children are
    `nn.Linear`s over the memory of its parameters, which are no parameters any more: their names are attributes that
    are put together from the children at every access.

    Args:
        model: a copy of the user's.
        operators: names of those that will be replaced. Expanded are only the modules with a child among them, those
            that share weights with one, and those in one encoder with one, which can leave out padding if all are
            expanded; None: all.

    Returns:
        The model.
    """
    forms = expansions(model).forms
    parts, expanded = Parts(), []
    for name in list(_wanted(model, forms, operators)):
        module, form = model.get_submodule(name), forms[name]
        linears = form.linears(module, parts)
        for hidden in form.hidden_parameters:
            module._parameters.pop(hidden, None)
        for child, layer in linears.items():
            module._modules.pop(child, None)  # so that they stand in the order in which they run
            module._modules[child] = layer
        become(module, form, type(module))
        expanded.append(module)
    modules = dict(model.named_modules())
    replaced = None if operators is None else [modules[name] for name in operators if name in modules]
    disable_fast_paths(model, None if replaced is None else [*replaced, *expanded])
    for encoder in _packed_encoders(model).values():
        become(encoder, PackedEncoder, type(encoder))
    return model


def expanded_copy(
    model: nn.Module, operators: Collection[str] | None = None, *, own_buffers: bool = False
) -> nn.Module:
    """An expanded copy over the memory of the original; arguments are those of `expand` and `shared_copy`."""
    return expand(shared_copy(model, own_buffers=own_buffers), operators)


def _wanted(
    model: nn.Module, forms: Mapping[str, type[ExpandedForm]], operators: Collection[str] | None
) -> Iterator[str]:
    if operators is None:
        yield from forms
        return
    children = {name: {f"{name}.{child}".lstrip(".") for child in form.children_names} for name, form in forms.items()}
    weights = {
        name: {id(each) for each in model.get_submodule(name)._parameters.values() if each is not None}
        for name in forms
    }
    named = {name for name in forms if children[name].intersection(operators)}
    for encoder in (name for name, module in model.named_modules() if can_pack(module)):
        inside = {name for name in forms if not encoder or name.startswith(f"{encoder}.")}
        named |= inside if inside & named else set()
    keys = {key for name in named for key in weights[name]}
    yield from (name for name in forms if weights[name] & keys)


def _packed_encoders(model: nn.Module) -> dict[str, nn.Module]:
    """The encoders that become `PackedEncoder`s: all of their attention is expanded."""
    return {
        name: module
        for name, module in model.named_modules()
        if can_pack(module)
        and not isinstance(module, PackedEncoder)
        and all(isinstance(layer.self_attn, ExpandedAttention) for layer in module.layers)
    }


def _base(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch with an expanded form that a module is an instance of."""
    if isinstance(module, ExpandedForm):
        return None
    return next((base for base in _FORMS if isinstance(module, base)), None)


def _problem(
    module: nn.Module, base: type[nn.Module], owners: Mapping[int, set[str]], bases: Mapping[str, type[nn.Module]]
) -> str | None:
    """Why a module of a class with an expanded form cannot be expanded."""
    form = _FORMS[base]
    if type(module).forward is not base.forward:
        return f"{type(module).__qualname__} overrides the forward method of {base.__name__}"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if any(name not in module._parameters for name in form.hidden_parameters):
        return "its weight is computed from other parameters (parametrization, weight_norm, spectral_norm or pruning)"
    if not is_replaceable(module):
        return "its class has __slots__"
    taken = set(form.new_children).intersection((*names_of(module), *dir(type(module))))
    if taken:
        return f"its attribute {min(taken)!r} has a name that its Linear children need; give it another name"
    for name in form.hidden_parameters:
        parameter = module._parameters[name]
        elsewhere = [] if parameter is None else sorted(owners[id(parameter)].difference(bases))
        if elsewhere:
            return f"it shares {name} with {elsewhere[0] or 'the model itself'}"
    try:
        joined_class(form, type(module))
    except ModelError as error:
        return str(error)
    return form.problem(module)
