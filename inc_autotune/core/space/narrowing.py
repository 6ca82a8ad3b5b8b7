"""How the user's rules, the approach and excluded dtypes narrow what the capability offers."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from inc_autotune.core.arguments import OperatorRule
from inc_autotune.core.errors import CapabilityError, did_you_mean
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.core.space.units import OperatorKey
from inc_autotune.core.vocabulary import FLOAT_DTYPES, Approach, RequestedApproach

logger = logging.getLogger(__name__)

Constraints = dict[tuple[str, str], tuple[str, ...]]

APPROACH_MODES: Mapping[RequestedApproach, tuple[Approach, ...]] = {
    "auto": ("static", "dynamic"),
    "static": ("static",),
    "dynamic": ("dynamic",),
    "weight_only": ("weight_only",),
    "qat": ("static", "dynamic"),
}


def narrow_options(
    options: Mapping[OperatorKey, Sequence[OpConfig]],
    op_type_dict: Mapping[str, OperatorRule] = MappingProxyType({}),
    op_name_dict: Mapping[str, OperatorRule] = MappingProxyType({}),
    approach: RequestedApproach = "auto",
    excluded_precisions: Collection[str] = (),
    include_weight_only: bool = False,
    smallest_first: bool = False,
    warn: bool = True,
) -> dict[OperatorKey, tuple[OpConfig, ...]]:
    """Keep the options that the user's arguments allow.

    A pattern must match the operator's type or name in full (`re.fullmatch`). All matching rules are combined,
    types first, then names, both in the given order; a later rule replaces the properties that it names. A rule that
    names a dtype replaces all dtypes of earlier rules, so one layer of a type kept in fp32 can be quantized by name.

    A rule keeps the options that have one of the named values, and fp32 as the last resort for accuracy; a rule
    that names only fp32 keeps only fp32. A `quant_mode` in a rule goes before `approach`. Properties other than the
    dtype say nothing about a float tensor.

    Weight-only options are kept for `approach="weight_only"`, with `include_weight_only`, and where a rule names a
    weight dtype that only weight-only options have.

    An operator that cannot be quantized under `approach` is left out of rules with a wider pattern. If the
    pattern is the very name or type of the operator, the rule is an error.

    Args:
        options: (name, type) -> options, first the default, last fp32.
        op_type_dict: regular expression on the type -> rule.
        op_name_dict: regular expression on the name -> rule.
        approach: "auto" or "qat" (static, then dynamic), "static", "dynamic" or "weight_only".
        excluded_precisions: dtypes that no weight and no activation may have.
        include_weight_only: keep weight-only options after the others, under any approach.
        smallest_first: where rules leave weights of several integer types, named in one of them, those of the fewest
            bits come first. Else the order is that of the capability.
        warn: whether to warn of patterns that match nothing.

    Returns:
        The same operators in the same order; the last option of each is fp32. `options` is not changed.

    Raises:
        CapabilityError: a rule asks for what the capability does not offer, or keeps nothing.
    """
    rules = [
        (argument, index, pattern, rule)
        for argument, index, given in (("op_type_dict", 1, op_type_dict), ("op_name_dict", 0, op_name_dict))
        for pattern, rule in given.items()
    ]
    matching: dict[OperatorKey, list[tuple[str, OperatorRule]]] = {operator: [] for operator in options}
    literal: set[OperatorKey] = set()
    for argument, index, pattern, rule in rules:
        matched = [operator for operator in options if re.fullmatch(pattern, operator[index])]
        place = f"{argument}[{pattern!r}]"
        if not matched and warn:
            _warn_unmatched(place, pattern, [operator[index] for operator in options])
        _check_offered(place, rule, [option for operator in matched for option in options[operator]])
        for operator in matched:
            matching[operator].append((place, rule))
        literal |= {operator for operator in matched if operator[index] == pattern}
    return {
        operator: _narrow(
            operator,
            offered,
            matching[operator],
            operator in literal,
            approach,
            excluded_precisions,
            include_weight_only,
            smallest_first,
        )
        for operator, offered in options.items()
    }


def describe_options(options: Iterable[OpConfig]) -> str:
    """What a set of options offers, on one line: alternatives are joined with `|`."""
    groups: dict[tuple[str, str | None], list[OpConfig]] = {}
    for option in options:
        groups.setdefault((option.dtype, option.approach), []).append(option)
    texts = []
    for (dtype, approach), group in groups.items():
        if approach is None:
            texts.append(dtype)
            continue
        parts = []
        for part in ("weight", "activation"):
            tensors = [getattr(option, part) for option in group]
            values = [
                "|".join(dict.fromkeys(getattr(tensor, name) for tensor in tensors if getattr(tensor, name)))
                for name in ("dtype", "scheme", "granularity", "algorithm")
            ]
            parts.append(f"{part} {' '.join(value for value in values if value)}")
        texts.append(f"{approach} ({', '.join(parts)})")
    return "; ".join(texts)


def _narrow(
    operator: OperatorKey,
    offered: Sequence[OpConfig],
    rules: Sequence[tuple[str, OperatorRule]],
    literal: bool,
    approach: RequestedApproach,
    excluded: Collection[str],
    include_weight_only: bool,
    smallest_first: bool,
) -> tuple[OpConfig, ...]:
    wanted: Constraints = {}
    for _, rule in rules:
        constraints = rule.constraints()
        if any(name == "dtype" for _, name in constraints):
            wanted = {key: values for key, values in wanted.items() if key[1] != "dtype"}
        wanted |= constraints
    modes = wanted.get(("activation", "quant_mode"), APPROACH_MODES[approach])
    if include_weight_only:
        modes = (*modes, "weight_only")
    allowed = [
        option
        for option in offered
        if option != FP32 and option.weight.dtype not in excluded and option.activation.dtype not in excluded
    ]
    usual = [option for option in allowed if option.approach is None or option.approach in modes]
    kept = [option for option in usual if _fits(option, wanted)]
    if not any(option.is_quantized for option in kept) and ("weight", "dtype") in wanted:
        kept += [option for option in allowed if option.approach == "weight_only" and _fits(option, wanted)]
    float_named = any(name == "dtype" and set(values) & set(FLOAT_DTYPES) for (_, name), values in wanted.items())
    fp32_named = float_named and _fits(FP32, wanted)
    answered = fp32_named or any(option.is_quantized or float_named for option in kept)
    quantizable = any(option.is_quantized for option in usual)
    if wanted and not answered:
        if quantizable or literal:
            raise _nothing_kept(operator, offered, [place for place, _ in rules], wanted, approach, excluded)
        kept = [option for option in usual if not option.is_quantized]
    if not float_named and not any(option.is_quantized for option in kept):
        kept = []  # bf16 is where an integer type falls back to, or what a rule asks for
    named = set(wanted.get(("weight", "dtype"), ())) - set(FLOAT_DTYPES)
    if smallest_first and len(named) > 1:
        kept.sort(key=_weight_bits)
    return (*kept, FP32)


def _weight_bits(option: OpConfig) -> int:
    """Of integers; floats come behind all of them."""
    return integer_type(option.weight.dtype).bits if option.is_quantized else 16


def _fits(option: OpConfig, wanted: Constraints) -> bool:
    for (part, name), values in wanted.items():
        tensor = getattr(option, part)
        if name == "quant_mode":
            fits = option.approach is None or option.approach in values
        elif name == "dtype":
            fits = tensor.dtype in values
        else:
            fits = tensor.is_float or getattr(tensor, name) in values
        if not fits:
            return False
    return True


def _check_offered(place: str, rule: OperatorRule, offered: Sequence[OpConfig]) -> None:
    """Refuse a rule with a value that no matching operator offers."""
    if all(option == FP32 for option in offered):
        return
    for (part, name), values in rule.constraints().items():
        found = {
            option.approach if name == "quant_mode" else getattr(getattr(option, part), name) for option in offered
        }
        missing = [value for value in values if value not in found and value != "fp32"]
        if missing:
            raise CapabilityError(
                f"{place}: {part} {name} {missing[0]!r} is not in the capability of the operators it matches.\n"
                f"The capability offers: {describe_options(offered)}.{did_you_mean(missing[0], filter(None, found))}\n"
                "Change the rule, or add the option with capability=."
            )


def _nothing_kept(
    operator: OperatorKey,
    offered: Sequence[OpConfig],
    places: Sequence[str],
    wanted: Constraints,
    approach: RequestedApproach,
    excluded: Collection[str],
) -> CapabilityError:
    asked = ", ".join(f"{part} {name} {'|'.join(values)}" for (part, name), values in wanted.items())
    limits = [f"approach={approach!r}"] if approach != "auto" else []
    limits += [f"excluded_precisions={list(excluded)!r}"] if excluded else []
    under = f" under {' and '.join(limits)}" if limits else ""
    return CapabilityError(
        f"{', '.join(places)}: operator {operator[0]!r} ({operator[1]}) has no option with {asked}{under}.\n"
        f"The capability offers: {describe_options(offered) or 'fp32'}.\n"
        "Change the rule, or add the option with capability=."
    )


def _warn_unmatched(place: str, pattern: str, words: Iterable[str]) -> None:
    known = list(dict.fromkeys(words))
    hint = did_you_mean(pattern, known)
    if not hint:
        examples = ", ".join(repr(word) for word in known[:5]) + (", ..." if len(known) > 5 else "")
        hint = f" The model has: {examples}." if known else ""
    logger.warning("%s matches no operator of the model.%s", place, hint)
