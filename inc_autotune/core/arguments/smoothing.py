"""The argument models of smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ValidationInfo, model_validator

from inc_autotune.core.arguments import checks as check
from inc_autotune.core.arguments.base import ArgumentModel, none_is_empty, number, one_of, optional
from inc_autotune.core.arguments.checks import CheckError
from inc_autotune.core.vocabulary import (
    FORM_NAMES,
    MOST_ALPHAS,
    SHARED_CRITERIA,
    FormName,
    SharedCriterion,
    listing,
)

ALPHA_DIGITS = 7
UNIT_NUMBER = "a number from 0 to 1"
ALPHA = f"'auto', {UNIT_NUMBER}, or a list of such numbers"

_alpha_number = check.number(UNIT_NUMBER, high=1, digits=ALPHA_DIGITS)


def _alpha(value: object) -> str | float | tuple[float, ...]:
    if isinstance(value, str):
        return check.choice(("auto",), ALPHA)(value)
    alphas = check.one_or_many(_alpha_number, ALPHA)(value)
    return alphas if isinstance(check.plain(value), list | tuple) else alphas[0]


def _init_alpha(value: object, info: ValidationInfo) -> float:
    allowed = f"{UNIT_NUMBER}, or 'auto' (0.5, or the end of the range that is nearest to it)"
    if isinstance(value, str):
        check.choice(("auto",), allowed)(value)
        return float(min(max(0.5, info.data.get("alpha_min", 0.0)), info.data.get("alpha_max", 1.0)))
    return check.number(allowed, high=1, digits=ALPHA_DIGITS)(value)


def _forms(value: object) -> tuple[str, ...]:
    allowed = f"a list of {listing(FORM_NAMES)}; an empty one keeps SmoothQuant's form"
    plain = check.plain(value)
    if isinstance(plain, list | tuple) and not plain:
        return ()
    return check.one_or_many(check.choice(FORM_NAMES), allowed)(value)


class AutoAlphaArgs(ArgumentModel):
    """The range of the alpha search.

    Args:
        alpha_min: smallest alpha tried.
        alpha_max: largest alpha tried.
        alpha_step: distance between two of them, > 0.
        init_alpha: where the search starts: of equally good alphas the nearest to this one wins. "auto": 0.5, or the
            end of the range that is nearest to 0.5.
        shared_criterion: how the losses of operators that share an input become one: their "min", "mean" or "max".
        enable_blockwise_loss: search by the loss of whole blocks instead of single operators.
        forms: what is searched beside alpha, once that is found: "exponents", alpha and beta in place of alpha and
            1 - alpha; "norm" of the weights in place of their largest value; "shift", channels centred before they are
            scaled, where the framework does that for nothing. Empty: scales as SmoothQuant makes them.
    """

    allowed: ClassVar[str] = (
        f"'init_alpha' ({UNIT_NUMBER}, or 'auto'), 'alpha_min' and 'alpha_max' ({UNIT_NUMBER}), "
        f"'alpha_step' (a number above 0, up to 1), 'shared_criterion' ({listing(SHARED_CRITERIA)}), "
        f"'enable_blockwise_loss' (bool), 'forms' (a list of {listing(FORM_NAMES)})"
    )
    renamed: ClassVar[Mapping[str, str]] = {"do_blockwise": "enable_blockwise_loss", "default_alpha": "init_alpha"}

    alpha_min: Annotated[float, BeforeValidator(_alpha_number)] = 0.0
    alpha_max: Annotated[float, BeforeValidator(_alpha_number)] = 1.0
    alpha_step: Annotated[float, number("a number above 0, up to 1", high=1, above_low=True, digits=ALPHA_DIGITS)] = 0.1
    init_alpha: Annotated[float, BeforeValidator(_init_alpha)] = 0.5
    shared_criterion: Annotated[SharedCriterion, one_of(SHARED_CRITERIA)] = "mean"
    enable_blockwise_loss: Annotated[bool, BeforeValidator(check.boolean)] = False
    forms: Annotated[tuple[FormName, ...], BeforeValidator(_forms)] = FORM_NAMES

    @model_validator(mode="after")
    def _check_range(self) -> AutoAlphaArgs:
        if self.alpha_min > self.alpha_max:
            raise CheckError(
                f"alpha_min {self.alpha_min:g} is above alpha_max {self.alpha_max:g}",
                "0 <= alpha_min <= alpha_max <= 1",
            )
        steps = (self.alpha_max - self.alpha_min) / self.alpha_step
        if steps > MOST_ALPHAS:
            raise CheckError(
                f"alpha_step {self.alpha_step:g} makes {steps:.0f} alphas", f"a step that makes at most {MOST_ALPHAS}"
            )
        return self


class SmoothQuantArgs(ArgumentModel):
    """How the model is smoothed.

    Args:
        alpha: "auto": one alpha a layer, searched in the range of `auto_alpha_args`. A number: that alpha for the
            whole model. Several numbers: each is tried for the whole model.
        auto_alpha_args: the range of the search; without effect unless `alpha` is "auto".
        folding: True folds scales into the operator before, where that is exact; False never does; None leaves it
            to the framework.
    """

    allowed: ClassVar[str] = f"'alpha' ({ALPHA}), 'auto_alpha_args' (a dict), 'folding' (True, False or None)"
    renamed: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (*AutoAlphaArgs.model_fields, *AutoAlphaArgs.renamed), "auto_alpha_args"
    )

    alpha: Annotated[Literal["auto"] | float | tuple[float, ...], BeforeValidator(_alpha)] = "auto"
    auto_alpha_args: Annotated[AutoAlphaArgs, none_is_empty] = AutoAlphaArgs()
    folding: Annotated[bool | None, optional(check.boolean)] = None
