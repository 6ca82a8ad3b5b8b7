"""The user's rules per operator, as given in `op_type_dict` and `op_name_dict`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, model_validator

from inc_autotune.core.arguments.base import ArgumentModel
from inc_autotune.core.arguments.checks import CheckError, choice, described, one_or_many, shown
from inc_autotune.core.vocabulary import (
    ALGORITHMS,
    APPROACHES,
    DTYPES,
    GRANULARITIES,
    SCHEMES,
    listing,
)


def _words(what: str, words: tuple[str, ...]) -> BeforeValidator:
    allowed = f"one or a list of {listing(words)}"
    return BeforeValidator(one_or_many(choice(words, allowed, what), allowed))


class TensorRule(ArgumentModel):
    """The values one tensor of an operator may take; an empty tuple leaves a property free."""

    allowed: ClassVar[str] = (
        f"'dtype' ({listing(DTYPES)}), 'scheme' ({listing(SCHEMES)}), "
        f"'granularity' ({listing(GRANULARITIES)}), 'algorithm' ({listing(ALGORITHMS)}); each one value or a list"
    )

    dtype: Annotated[tuple[str, ...], _words("dtype", DTYPES)] = ()
    scheme: Annotated[tuple[str, ...], _words("scheme", SCHEMES)] = ()
    granularity: Annotated[tuple[str, ...], _words("granularity", GRANULARITIES)] = ()
    algorithm: Annotated[tuple[str, ...], _words("algorithm", ALGORITHMS)] = ()


class ActivationRule(TensorRule):
    """As `TensorRule`, and the approach the operator may take."""

    allowed: ClassVar[str] = TensorRule.allowed + f"; 'quant_mode' ({listing(APPROACHES)})"

    quant_mode: Annotated[tuple[str, ...], _words("quant_mode", APPROACHES)] = ()


class OperatorRule(ArgumentModel):
    """What the operators of one pattern may be. `{"weight": {"dtype": "fp32"}}` keeps them in fp32."""

    allowed: ClassVar[str] = (
        "'weight' and 'activation', dicts with 'dtype', 'scheme', 'granularity', 'algorithm'; in 'activation' also "
        "'quant_mode'. For example {'weight': {'dtype': ['fp32']}, 'activation': {'dtype': ['fp32']}}"
    )

    weight: TensorRule = TensorRule()
    activation: ActivationRule = ActivationRule()

    @model_validator(mode="after")
    def _check_not_empty(self) -> OperatorRule:
        if not self.constraints():
            raise CheckError("the rule names nothing", self.allowed)
        return self

    def constraints(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(part, property) -> allowed values, for every property the rule restricts."""
        return {
            (part, name): values
            for part, rule in (("weight", self.weight), ("activation", self.activation))
            for name, values in rule
            if values
        }


def _check_patterns(value: Any) -> Any:
    allowed = "a dict of regular expression -> {'weight': {...}, 'activation': {...}}"
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckError(f"{described(value)}, not a dict", allowed)
    for pattern in value:
        if not isinstance(pattern, str):
            raise CheckError(f"key {described(pattern)}, not a str", allowed)
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckError(
                f"{shown(pattern)} is not a regular expression: {error}",
                allowed,
                " Special characters are escaped by re.escape(name).",
            ) from None
    return dict(value)


OperatorRules = Annotated[dict[str, OperatorRule], BeforeValidator(_check_patterns)]
"""Regular expression, matched in full -> rule. None is taken as no rules."""
