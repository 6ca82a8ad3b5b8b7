"""What each operator of a model may become, after the user's rules and the adaptor's advice."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import possible_corrections, skipped_operators
from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.errors import ArgumentError, CapabilityError, did_you_mean
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.space import OperatorKey, TuningSpace, build_space, describe_options, narrow_options
from inc_autotune.core.vocabulary import CORRECTIONS, FLOAT_DTYPES, Correction, listing

Options = Mapping[OperatorKey, tuple[OpConfig, ...]]
"""Configurations by operator, the default first, fp32 last."""


@dataclass(frozen=True)
class Choices:
    """What there is to decide about a model, and why the rest is not.

    Args:
        offered: the adaptor's capability.
        allowed: what the user's rules leave of it.
        groups: names of operators that are decided together.
        fp32_reasons: why operators stay in fp32 that are allowed something else, by name.
        skipped: why others cannot be quantized, by name.
    """

    offered: Options
    allowed: Options
    groups: Sequence[Sequence[str]]
    fp32_reasons: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def space(self) -> TuningSpace:
        """The units that have a choice.

        Raises:
            ModelError: there is none.
        """
        options = {key: (FP32,) if key[0] in self.fp32_reasons else each for key, each in self.allowed.items()}
        return build_space(options, self.groups, skipped={**self.fp32_reasons, **self.skipped})

    def without(self, reasons: Mapping[str, str]) -> Choices:
        """The choices that remain where these operators, each with a reason, stay in fp32 too."""
        return replace(self, fp32_reasons={**self.fp32_reasons, **reasons}) if reasons else self

    def corrected(self, adaptor: Adaptor, model: Any, corrections: Collection[Correction]) -> Choices:
        """The same, where every configuration asks for those of the corrections that its operator can have.

        Operators that are decided together ask for those that any of them can have.
        """
        members = {name: group for group in self.groups for name in group}
        types = {name for name, _ in self.allowed}

        def asked(name: str, config: OpConfig) -> OpConfig:
            every = [each for each in members.get(name, (name,)) if each in types]
            able = {each for member in every for each in possible_corrections(adaptor, model, member, config)}
            return config.with_corrections(each for each in CORRECTIONS if each in able and each in corrections)

        allowed = {
            key: tuple(asked(key[0], config) if config.is_quantized else config for config in configs)
            for key, configs in self.allowed.items()
        }
        return replace(self, allowed=allowed)


def find_choices(adaptor: Adaptor, model: Any, arguments: AutotuneArguments) -> Choices:
    """What there is to decide once the model has been calibrated: its operators are those that ran."""
    offered = offered_options(adaptor, model)
    allowed = allowed_options(offered, arguments, warn=False)
    reasons = reasons_for_fp32(adaptor, model, allowed, arguments)
    return Choices(offered, allowed, adaptor.groups(model), reasons, skipped_operators(adaptor, model))


def offered_options(adaptor: Adaptor, model: Any) -> Options:
    """The adaptor's capability, parsed."""
    opwise = adaptor.query_fw_capability(model)["opwise"]
    return {operator: tuple(OpConfig.from_dict(config) for config in configs) for operator, configs in opwise.items()}


def check_rule_types(adaptor: Adaptor, model: Any, arguments: AutotuneArguments) -> None:
    """Refuse rules for types that do not exist: such a rule would have no effect, unnoticed.

    Types of the framework that this model does not have are allowed, so that one dict of rules serves several models.

    Raises:
        ArgumentError: a pattern of `op_type_dict` matches no type that the capability, the framework or the model has.
    """
    if not arguments.op_type_dict:
        return
    capability = adaptor.query_fw_capability(model)
    quantized = list(dict.fromkeys([*(kind for _, kind in capability["opwise"]), *capability["optypewise"]]))
    known = {*quantized, *adaptor.known_types(model)}
    for pattern in arguments.op_type_dict:
        if not any(re.fullmatch(pattern, known_type) for known_type in known):
            hint = did_you_mean(pattern, quantized) or did_you_mean(pattern, known)
            raise ArgumentError(
                f"op_type_dict[{pattern!r}]: matches no operator type. Allowed: regular expressions that match a type "
                f"in full, such as {listing(quantized[:5])}.{hint}"
            )


def allowed_options(offered: Options, arguments: AutotuneArguments, *, warn: bool = True) -> Options:
    """What the user's rules leave of the capability.

    Raises:
        CapabilityError: a rule asks for what the capability does not offer, or `approach` does.
    """
    allowed = narrow_options(
        offered,
        arguments.op_type_dict,
        arguments.op_name_dict,
        approach=arguments.approach,
        excluded_precisions=arguments.excluded_precisions,
        include_weight_only=arguments.objective != "performance",
        smallest_first=arguments.objective != "performance",
        warn=warn,
    )
    if arguments.approach != "auto" and not _quantized(allowed):
        _check_approach(_quantized(offered), arguments.approach)
    return allowed


def reasons_for_fp32(adaptor: Adaptor, model: Any, options: Options, arguments: AutotuneArguments) -> dict[str, str]:
    """Reasons by operator, if the adaptor advises against the default and no rule asks for the operator by name."""
    reasons = {
        name: adaptor.fp32_reason(model, name, configs[0])
        for (name, _), configs in options.items()
        if configs[0].is_quantized and not is_asked_for(name, arguments)
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def is_asked_for(name: str, arguments: AutotuneArguments) -> bool:
    """Whether a rule in `op_name_dict` names a quantized dtype for this operator's weight."""
    return any(
        re.fullmatch(pattern, name) and set(rule.weight.dtype) - set(FLOAT_DTYPES)
        for pattern, rule in arguments.op_name_dict.items()
    )


def _quantized(options: Options) -> list[OpConfig]:
    return [config for configs in options.values() for config in configs if config.is_quantized]


def _check_approach(offered: Sequence[OpConfig], approach: str) -> None:
    if offered and all(config.approach != approach for config in offered):
        raise CapabilityError(
            f"approach={approach!r}: nothing to quantize, since no operator of the model has this approach.\n"
            f"The capability offers: {describe_options(dict.fromkeys(offered))}.\n"
            "Choose another approach, or add the option with capability=."
        )
