"""The arguments of `autotune`, validated before any work is done."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from inc_autotune.core.arguments import checks as check
from inc_autotune.core.arguments.base import (
    ArgumentModel,
    argument_error,
    first_error,
    none_is_empty,
    number,
    one_of,
    optional,
    reading_argument,
)
from inc_autotune.core.arguments.checks import CheckError
from inc_autotune.core.arguments.rules import OperatorRules
from inc_autotune.core.arguments.smoothing import SmoothQuantArgs
from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.core.vocabulary import (
    CORRECTIONS,
    DTYPES,
    DTYPES_TEXT,
    OBJECTIVES,
    REQUESTED_APPROACHES,
    REQUESTED_ROUNDINGS,
    TRAINED_RANGES,
    Correction,
    Objective,
    RequestedApproach,
    RequestedRounding,
    TrainedRanges,
    listing,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

SMOOTH_QUANT_RECIPES = ("smooth_quant", "smooth_quant_args")
WEIGHT_ROUNDING = "weight_rounding"
CORE_RECIPES = (*SMOOTH_QUANT_RECIPES, *CORRECTIONS, WEIGHT_ROUNDING)
"""Recipes that every framework has."""


class TrainingArgs(ArgumentModel):
    """How a quantized model is trained.

    Args:
        ranges: "learned": by gradients, like weights (LSQ); "moving": those of the data and weights of each step, data
            in a moving average; "fixed": those of calibration. None leaves it to the framework.
        folder: where trained weights are kept; None: beside a storage that is a file, else in memory.
    """

    allowed: ClassVar[str] = f"'ranges' ({listing(TRAINED_RANGES)}, or None), 'folder' (a path, or None)"

    ranges: Annotated[TrainedRanges | None, optional(check.choice(TRAINED_RANGES))] = None
    folder: Annotated[str | None, optional(lambda value: _path_text(value))] = None

    def for_own_loop(self) -> TrainingArgs:
        """The same, for a loop of the user's own.

        Raises:
            ArgumentError: it asks for something that only a training by `autotune` does.
        """
        if self.folder is not None:
            raise ArgumentError(
                f"training_args['folder']={self.folder!r}: a loop of one's own keeps what it has learned. Leave it "
                "out, and write the student at any time: save(student, path)."
            )
        return self


class AccuracyCriterion(ArgumentModel):
    """How much worse than the fp32 model the result may be.

    Args:
        relative: tolerated loss as a fraction of the fp32 score: 0.01 is one percent. Default: 0.01, unless
            `absolute` is given.
        absolute: tolerated loss in the unit of the score.
        higher_is_better: False for a score such as perplexity or word error rate.
    """

    allowed: ClassVar[str] = "'relative' or 'absolute' (one of them, a number >= 0), 'higher_is_better' (bool)"
    renamed: ClassVar[Mapping[str, str]] = {"tolerable_loss": "relative", "criterion": "relative"}

    relative: Annotated[float | None, optional(check.number("a number >= 0, such as 0.01 for one percent"))] = None
    absolute: Annotated[float | None, optional(check.number("a number >= 0, in the unit of the score"))] = None
    higher_is_better: Annotated[bool, BeforeValidator(check.boolean)] = True

    @model_validator(mode="before")
    @classmethod
    def _default_to_one_percent(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("relative") is None and data.get("absolute") is None:
            return {**data, "relative": 0.01}
        return data

    @model_validator(mode="after")
    def _check_one(self) -> AccuracyCriterion:
        if self.relative is not None and self.absolute is not None:
            raise CheckError("both 'relative' and 'absolute' are given", self.allowed)
        if self.relative is not None and self.relative >= 1 and self.higher_is_better:
            raise CheckError(
                f"relative {self.relative:g} tolerates the loss of the whole score",
                "a number from 0 to below 1, such as 0.01 for one percent",
            )
        return self


def _device(value: object) -> str:
    # A torch.device, recognized by its attribute `type`, for the core imports no framework.
    if isinstance(getattr(value, "type", None), str):
        return str(value)
    return check.text(value)


def _path_text(value: object) -> str:
    return check.text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _capability(value: object) -> Any:
    allowed = "the path of a YAML file, a dict of dtypes to add, or a list of version blocks"
    if isinstance(value, str):
        return check.text(value)
    if isinstance(value, os.PathLike):
        return value
    if not isinstance(value, Mapping | list):
        raise CheckError(check.described(value), allowed)
    try:
        return deepcopy(value)
    except RecursionError:
        raise CheckError("the value has too many levels", allowed) from None


def _excluded_precisions(value: object) -> tuple[str, ...]:
    allowed = f"a list of dtypes: {DTYPES_TEXT.replace('fp32, ', '')}"
    is_set = isinstance(value, set | frozenset)
    if isinstance(value, set | frozenset):
        value = list(value)
    if value is None or (isinstance(value, list | tuple) and not value):
        return ()
    excluded = check.one_or_many(check.choice(DTYPES, allowed, "dtype"), allowed)(value)
    excluded = tuple(sorted(excluded)) if is_set else excluded  # a set has no order of its own
    if "fp32" in excluded:
        raise CheckError("fp32 cannot be excluded, it is what everything falls back to", allowed)
    return excluded


def _function(allowed: str) -> Callable[[object], Any]:
    """A check of an argument that is a function, or None."""

    def checked(value: object) -> Any:
        if value is None or (callable(value) and not isinstance(value, type)):
            return value
        raise CheckError(f"{check.described(value)}, no function", allowed)

    return checked


_train_func = _function("a function that trains the model it is given, or None")
_on_trial = _function("a function that is given each trial when it has ended, or None")


def _sampling_sizes(value: object) -> tuple[int, ...]:
    allowed = "a whole number of samples >= 1, or a list of them"
    return (
        (100,) if value is None else check.one_or_many(check.integer(allowed, low=1, high=sys.maxsize), allowed)(value)
    )


class AutotuneArguments(ArgumentModel):
    """The arguments of `autotune` that need no framework; `autotune` documents their meaning."""

    op_type_dict: OperatorRules = Field(default_factory=dict)
    op_name_dict: OperatorRules = Field(default_factory=dict)
    smoothquant_args: SmoothQuantArgs | None = None
    recipes: dict[str, Any] = Field(default_factory=dict)
    sampling_sizes: Annotated[tuple[int, ...], BeforeValidator(_sampling_sizes)] = (100,)
    accuracy_criterion: Annotated[AccuracyCriterion, none_is_empty] = AccuracyCriterion(relative=0.01)
    tuning_time: Annotated[float, number("seconds, a number >= 0; 0 stops at the first model that meets the goal")] = (
        0.0
    )
    max_trials: Annotated[int, BeforeValidator(check.integer("a whole number >= 1", low=1, high=sys.maxsize))] = 100
    strategy: Annotated[str, BeforeValidator(check.text)] = "auto"
    approach: Annotated[RequestedApproach, one_of(REQUESTED_APPROACHES)] = "auto"
    train_func: Annotated[Callable[[Any], Any] | None, BeforeValidator(_train_func)] = None
    training_args: Annotated[TrainingArgs, none_is_empty] = TrainingArgs()
    backend: Annotated[str, BeforeValidator(check.text)] = "default"
    device: Annotated[str, BeforeValidator(_device)] = "cpu"
    capability: Annotated[Any, optional(_capability)] = None
    excluded_precisions: Annotated[tuple[str, ...], BeforeValidator(_excluded_precisions)] = ()
    objective: Annotated[Objective, one_of(OBJECTIVES)] = "performance"
    storage: Annotated[str | None, optional(_path_text)] = None
    study_name: Annotated[str | None, optional(check.text)] = None
    # numpy, and Optuna's samplers through it, take seeds of 32 bits.
    seed: Annotated[
        int, BeforeValidator(check.integer("a whole number from 0 to 2**32 - 1", low=0, high=2**32 - 1))
    ] = 0
    progress: Annotated[bool, BeforeValidator(check.boolean)] = True
    on_trial: Annotated[Callable[[Any], object] | None, BeforeValidator(_on_trial)] = None

    @property
    def smoothing(self) -> SmoothQuantArgs | None:
        """How to smooth; None if the user switched smoothing off. Default: a search of layer-wise alphas."""
        if self.smoothquant_args is None and self.recipes.get("smooth_quant") is not False:
            return SmoothQuantArgs()
        return self.smoothquant_args

    @property
    def corrections(self) -> dict[Correction, bool | Literal["auto"]]:
        """Whether each correction is made; "auto" (the default): where it lowers the error at the model's output."""
        return {name: self.recipes.get(name, "auto") for name in CORRECTIONS}

    @property
    def weight_rounding(self) -> RequestedRounding:
        """How weights are rounded: the recipe of this name. Default: whichever comes closer at the model's output.

        A weight correction that is asked for goes before a rounding that is not, since a weight has only one of them.
        """
        replaced = self.recipes.get("weight_correction") is True
        rounding: RequestedRounding = self.recipes.get(WEIGHT_ROUNDING, "auto")
        return "nearest" if replaced and rounding == "auto" else rounding

    @property
    def needs_histogram(self) -> bool:
        """Whether a rule asks for a calibration algorithm that needs more than minimum and maximum."""
        rules = (*self.op_type_dict.values(), *self.op_name_dict.values())
        return any(set(rule.activation.algorithm) - {"minmax"} for rule in rules)


def validate_arguments(
    *,
    strategies: Collection[str],
    backends: Collection[str],
    recipe_names: Collection[str] = (),
    untrainable: str | None = None,
    **arguments: Any,
) -> AutotuneArguments:
    """Validate the arguments of `autotune`; an argument takes its default if left out, or None where None is allowed.

    Intel Neural Compressor's form `recipes={"smooth_quant": True, "smooth_quant_args": {...}}` is turned into
    `smoothquant_args`, with the defaults of `smoothquant_args` (alpha "auto"). `smooth_quant_args` alone switches
    smoothing on; `"smooth_quant": False` switches smoothing off, whatever `smooth_quant_args` says.

    Args:
        strategies: names of the strategies there are.
        backends: names of the framework's backends.
        recipe_names: names of the framework's recipes; those of `CORE_RECIPES` are always known.
        untrainable: why models cannot be trained, and what to do instead; None: they can.
        arguments: the user's values by argument name. They are not changed, and later changes to them have no effect.

    Raises:
        ArgumentError: an argument has a wrong type, key or value; the message names it and what is allowed.
    """
    known = AutotuneArguments.model_fields
    for name in arguments:
        if name not in known:
            raise ArgumentError(f"unknown argument {name!r}.\nAllowed: {listing(known)}.{did_you_mean(name, known)}")
    values = dict(arguments)
    for name, words in (("strategy", strategies), ("backend", backends)):
        if name in values:
            _checked(name, values[name], check.choice(words, what=name))
    values["recipes"], values["smoothquant_args"] = _take_smooth_quant(
        values.get("recipes"), values.get("smoothquant_args"), recipe_names
    )
    # One by one, so that an object that cannot even be read is known by its argument.
    result = AutotuneArguments.model_construct(
        **{name: _checked(name, value, partial(_validated, name)) for name, value in values.items()}
    )
    _warn_of_unused(result.smoothquant_args)
    if untrainable is not None and (result.approach == "qat" or result.train_func is not None):
        argument = "approach='qat'" if result.train_func is None else "train_func"
        raise ArgumentError(f"{argument}: {untrainable}")
    if result.approach == "qat" and result.train_func is None:
        raise ArgumentError(
            "approach='qat': there is no train_func.\nAllowed: train_func=, a function that trains the fake-quantized "
            "model it is given, in place or returning the best one; or another approach."
        )
    return result


def _validated(name: str, value: Any) -> Any:
    """The argument in its checked form. Raises a `ValidationError`, whose places begin with the argument."""
    return getattr(AutotuneArguments.model_validate({name: value}), name)


def _checked(argument: str, value: Any, function: Callable[[Any], T], path: tuple[str, ...] = ()) -> T:
    """`function(value)`, whatever it raises raised as an `ArgumentError`; `path` leads into the argument."""
    part = value
    for step in path:
        part = part[step]
    with reading_argument(argument, value):
        try:
            return function(part)
        except CheckError as problem:
            raise argument_error(argument, value, path, problem) from None
        except ValidationError as error:
            inner, inner_problem = first_error(error)
            where = inner[1:] if inner[:1] == (argument,) else inner
            raise argument_error(argument, value, path + where, inner_problem) from None


def _take_smooth_quant(recipes: Any, smoothquant_args: Any, names: Collection[str]) -> tuple[dict[str, Any], Any]:
    """The recipes without the two of SmoothQuant, and the resulting `smoothquant_args`."""
    if recipes is None:
        return {}, smoothquant_args
    keys = dict.fromkeys([*CORE_RECIPES, *names])
    _checked("recipes", recipes, lambda value: check.mapping(value, keys, listing(keys)))
    recipes = _checked("recipes", recipes, lambda value: deepcopy(dict(value)))
    for name in CORRECTIONS:
        if name in recipes:
            _checked("recipes", recipes, check.boolean_or_auto, (name,))
    if WEIGHT_ROUNDING in recipes:
        _checked("recipes", recipes, check.choice(REQUESTED_ROUNDINGS), (WEIGHT_ROUNDING,))
        if recipes[WEIGHT_ROUNDING] == "second_moment" and recipes.get("weight_correction") is True:
            raise ArgumentError(
                f"recipes={check.shown(recipes)}: a weight is either corrected or rounded by second moments.\n"
                "Allowed: leave out 'weight_correction' or 'weight_rounding'."
            )
    rest = {key: value for key, value in recipes.items() if key not in SMOOTH_QUANT_RECIPES}
    own_args = recipes.get("smooth_quant_args")
    if own_args is not None:
        own_args = _checked("recipes", recipes, SmoothQuantArgs.model_validate, ("smooth_quant_args",))
        if smoothquant_args is not None:
            raise ArgumentError(
                f"recipes={check.shown(recipes)}: smoothquant_args is given as well.\n"
                "Allowed: one of smoothquant_args and recipes['smooth_quant_args']."
            )
    if "smooth_quant" not in recipes:
        return rest, smoothquant_args if own_args is None else own_args
    if _checked("recipes", recipes, check.boolean, ("smooth_quant",)):
        own_args = SmoothQuantArgs() if own_args is None else own_args
        return rest, own_args if smoothquant_args is None else smoothquant_args
    if smoothquant_args is not None:
        raise ArgumentError(
            f"recipes={check.shown(recipes)}: smoothing is switched off, yet smoothquant_args is given.\n"
            "Allowed: remove 'smooth_quant' from recipes, or leave out smoothquant_args."
        )
    return {**rest, "smooth_quant": False}, None


def _warn_of_unused(smoothquant_args: SmoothQuantArgs | None) -> None:
    if smoothquant_args is None or smoothquant_args.alpha == "auto":
        return
    if smoothquant_args.auto_alpha_args.model_fields_set:
        logger.warning(
            "smoothquant_args: 'auto_alpha_args' has no effect, since 'alpha' is %s and not 'auto'",
            smoothquant_args.alpha,
        )
