"""The numbers of operators as they stand in a recipe, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.errors import RecipeError
from inc_autotune.core.quantization import FRAMEWORK_SCHEMES, InputMeans
from inc_autotune.core.result import OperatorRecipe, Recipe, SharedArrays
from inc_autotune.core.vocabulary import listing
from inc_autotune.graphs.plan import OperatorCalibration, QuantizationPlan

logger = logging.getLogger(__name__)

STEPS = "rounding_steps"
"""Key of how far the integers of an operator's weight are from the nearest ones."""

WEIGHT_FRAMEWORK = "weight_framework"
"""Key of whose formulas give the scales of an operator's weight, where it was rounded elsewhere."""


def calibration_entries(
    plan: QuantizationPlan, settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, FloatArray]]:
    """A plan's numbers as they stand in a recipe.

    Args:
        plan: whose operators that leave fp32 are written.
        settings: plain values that stand with each of them.

    Returns:
        Plain values by operator name, and arrays by the names they have there, equal ones once.
    """
    shared = SharedArrays()
    entries: dict[str, dict[str, Any]] = {}
    for name in plan.configs:
        calibration = plan.calibration(name)
        entry: dict[str, Any] = {}
        for key, limits in (("input", calibration.range), ("output", calibration.output_range)):
            if limits is not None:
                entry[f"{key}_minimum"], entry[f"{key}_maximum"] = map(float, limits)
        if calibration.smoothing is not None:
            entry["smoothing"] = shared.name(calibration.smoothing, f"{name}.smoothing")
        means = calibration.input_means
        if means is not None:
            entry["input_mean"] = shared.name(means.exact, f"{name}.input_mean")
            entry["rounded_input_mean"] = shared.name(means.rounded, f"{name}.rounded_input_mean")
        if calibration.steps is not None:
            entry[STEPS] = shared.name(calibration.steps, f"{name}.rounding_steps")
        if calibration.weight_framework is not None:
            entry[WEIGHT_FRAMEWORK] = calibration.weight_framework
        if calibration.reduce_range:
            entry["reduce_range"] = True
        entries[name] = {**entry, **settings}
    return entries, shared.arrays


def calibrations_from_recipe(
    operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]
) -> dict[str, OperatorCalibration]:
    """Inverse of `calibration_entries`, for the operators of a recipe that leave fp32.

    Raises:
        RecipeError: an entry names a framework that there is not.
    """
    calibrations: dict[str, OperatorCalibration] = {}
    for name, operator in operators.items():
        entry = operator.calibration
        smoothing, exact, rounded = (
            None if key not in entry else np.asarray(arrays[entry[key]], np.float32)
            for key in ("smoothing", "input_mean", "rounded_input_mean")
        )
        calibrations[name] = OperatorCalibration(
            _limits(entry, "input"),
            smoothing,
            _limits(entry, "output"),
            bool(entry.get("reduce_range")),
            None if exact is None or rounded is None else InputMeans(exact, rounded),
            None if STEPS not in entry else np.asarray(arrays[entry[STEPS]], np.uint8),
            _weight_framework(name, entry),
        )
    return calibrations


def without_steps(recipe: Recipe) -> Recipe:
    """A recipe for a model whose weights are rounded already: without the steps, two bits for every weight."""
    operators = {
        name: replace(each, calibration={key: value for key, value in each.calibration.items() if key != STEPS})
        for name, each in recipe.operators.items()
    }
    dropped = {each.calibration[STEPS] for each in recipe.operators.values() if STEPS in each.calibration}
    arrays = {name: array for name, array in recipe.arrays.items() if name not in dropped}
    return replace(recipe, operators=operators, arrays=arrays)


def rounded_as_known(recipe: Recipe) -> Recipe:
    """A recipe whose weights are rounded to nearest where it does not hold their steps, which is logged."""
    missing = [
        name
        for name, each in recipe.operators.items()
        if each.config.rounding != "nearest" and STEPS not in each.calibration
    ]
    if not missing:
        return recipe
    logger.warning(
        "the recipe does not hold how the weights of %d operators were rounded, the first is %r, as the one inside a "
        "saved model does not; they are rounded to nearest. Use the recipe that save() wrote beside the model",
        len(missing),
        missing[0],
    )
    operators = dict(recipe.operators)
    for name in missing:
        operators[name] = replace(operators[name], config=operators[name].config.with_rounding("nearest"))
    return replace(recipe, operators=operators)


def _weight_framework(name: str, entry: Mapping[str, Any]) -> str | None:
    framework = entry.get(WEIGHT_FRAMEWORK)
    if framework is not None and framework not in FRAMEWORK_SCHEMES:
        raise RecipeError(
            f"recipe: operators.{name}.calibration.{WEIGHT_FRAMEWORK}: {shown(framework)} is none of "
            f"{listing(list(FRAMEWORK_SCHEMES))}. Save the recipe again."
        )
    return framework


def _limits(entry: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    if f"{key}_minimum" not in entry:
        return None
    return float(entry[f"{key}_minimum"]), float(entry[f"{key}_maximum"])
