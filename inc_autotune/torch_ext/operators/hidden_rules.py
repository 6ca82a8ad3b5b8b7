"""Rules for modules with hidden products hold for the Linears that these become."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import nn

from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.torch_ext.model import base_model, expansions
from inc_autotune.torch_ext.operators.types import OPERATORS

Rule = TypeVar("Rule")


def with_rules_for_hidden_products(arguments: AutotuneArguments, model: nn.Module) -> AutotuneArguments:
    """The arguments with rules for the children that expanded modules will have.

    A pattern of `op_name_dict` that matches the name of such a module, as `.*self_attn` does, matches its children
    too. A pattern of `op_type_dict` that matches the class, as `MultiheadAttention` does, becomes a rule for the names
    of the children, which other rules by name come after.

    Args:
        arguments: validated; stay as they are.
        model: the user's.
    """
    if not arguments.op_type_dict and not arguments.op_name_dict:
        return arguments
    plain = base_model(model, {})
    children = {
        name: [f"{name}.{child}".lstrip(".") for child in form.children_names]
        for name, form in expansions(plain).forms.items()
    }
    kinds = {name: {each.__name__ for each in type(plain.get_submodule(name)).__mro__} for name in children}
    by_type = dict(_by_type(arguments.op_type_dict, children, kinds))
    by_name = dict(_by_name(arguments.op_name_dict, children))
    types = {
        pattern: rule
        for pattern, rule in arguments.op_type_dict.items()
        # Else it would be reported as one that matches nothing.
        if _matches_an_operator(pattern) or not any(_matches(pattern, each) for each in kinds.values())
    }
    return arguments.model_copy(update={"op_type_dict": types, "op_name_dict": {**by_type, **by_name}})


def _by_type(
    rules: Mapping[str, Rule], children: Mapping[str, list[str]], kinds: Mapping[str, set[str]]
) -> Iterator[tuple[str, Rule]]:
    for pattern, rule in rules.items():
        if re.fullmatch(pattern, "Linear"):
            continue  # it holds for the children as it is
        names = [child for name in children if _matches(pattern, kinds[name]) for child in children[name]]
        if names:
            yield "|".join(map(re.escape, names)), rule


def _by_name(rules: Mapping[str, Rule], children: Mapping[str, list[str]]) -> Iterator[tuple[str, Rule]]:
    for pattern, rule in rules.items():
        names = [child for name in children if re.fullmatch(pattern, name) for child in children[name]]
        names = [name for name in names if not re.fullmatch(pattern, name)]
        yield "|".join([pattern, *map(re.escape, names)]), rule


def _matches(pattern: str, names: set[str]) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _matches_an_operator(pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in OPERATORS)
