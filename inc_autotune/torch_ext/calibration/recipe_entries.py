"""Ranges and smoothing scales as they stand in a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.quantization import InputMeans
from inc_autotune.core.result import OperatorRecipe, Recipe, SharedArrays
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.model import ParameterProduct

REDUCED = "reduce_range"
"""Key of whether an operator's weight has 7 bits instead of 8, since kernels saturated with 8."""

PRODUCT = "product"
"""Key of what a product with a parameter takes of it: such an operator is no module of the user's model."""

CHANNELS_LAST = "channels_last"
"""Key of whether a convolution's output may lie so, since the model computes the same with it."""

CHAINED = "hands_on_integers"
"""Key of whether a convolution's output goes to other convolutions as integers."""

SUMS = "rounds_sums"
"""Key of whether the other readers of a sum that a convolution reads get it in the integers that this one reads."""
STEPS = "rounding_steps"
"""Key of the array of how far a weight's integers are from the nearest ones, see `pack_steps`."""

BF16_ATTENTION = "bf16_attention"
"""Key, among a recipe's settings, of the names of the modules whose attention is computed in bfloat16."""

STEPS_LEFT_OUT = "rounding_steps_left_out"
"""Key of a recipe's metadata: weights are rounded by second moments, and only the model's files know how."""

GRIDS = ("weight_scale", "weight_zero_point")
"""Keys of the arrays of a weight's grid, as training left it."""

SHIFT = "input_shift"
"""Key of the array that is taken from an input's channels before they are divided by the smoothing scale."""

LIMITS = ("input_minimum", "input_maximum", "output_minimum", "output_maximum")


def calibration_entries(
    calibrations: Mapping[str, OperatorCalibration],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Calibrations as they stand in a recipe.

    Returns:
        Plain values by operator name, and arrays by the names used there; equal ones stand there once.
    """
    shared = SharedArrays()
    entries: dict[str, dict[str, Any]] = {}
    for name, calibration in calibrations.items():
        limits = {key: getattr(calibration, key) for key in LIMITS}
        entries[name] = {key: float(limit) for key, limit in limits.items() if limit is not None}
        if calibration.channels_last:
            entries[name][CHANNELS_LAST] = True
        if calibration.hands_on_integers:
            entries[name][CHAINED] = True
        if calibration.rounds_sums:
            entries[name][SUMS] = True
        if calibration.smoothing is not None:
            entries[name]["smoothing"] = shared.name(calibration.smoothing.numpy(), f"{name}.smoothing")
        if calibration.shift is not None:
            entries[name][SHIFT] = shared.name(calibration.shift.numpy(), f"{name}.{SHIFT}")
        if calibration.input_means is not None:
            means = calibration.input_means
            for key, value in (("input_mean", means.exact), ("rounded_input_mean", means.rounded)):
                entries[name][key] = shared.name(value.numpy(), f"{name}.{key}")
        for key in GRIDS:
            value = getattr(calibration, key)
            if value is not None:
                entries[name][key] = shared.name(value.numpy(), f"{name}.{key}")
        if calibration.steps is not None:
            entries[name][STEPS] = shared.name(calibration.steps, f"{name}.{STEPS}")
    return entries, shared.arrays


def without_ranges(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's entry without what `calibration_entries` writes."""
    marks = {CHANNELS_LAST, CHAINED, SUMS, STEPS}
    written = {*LIMITS, *GRIDS, *marks, SHIFT, "smoothing", "input_mean", "rounded_input_mean"}
    return {key: value for key, value in calibration.items() if key not in written}


def without_steps(recipe: Recipe) -> Recipe:
    """A recipe for weights that are rounded already."""
    operators = {
        name: replace(each, calibration={key: value for key, value in each.calibration.items() if key != STEPS})
        for name, each in recipe.operators.items()
    }
    return replace(recipe, operators=operators)


def products_from_recipe(operators: Mapping[str, OperatorRecipe]) -> list[ParameterProduct]:
    """The products with parameters among the operators of a recipe.

    Raises:
        RecipeError: an entry is not what `ParameterProduct.to_dict` returns.
    """
    try:
        return [
            ParameterProduct.from_dict(each.calibration[PRODUCT])
            for each in operators.values()
            if PRODUCT in each.calibration
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RecipeError(f"recipe: an entry {PRODUCT!r} is damaged ({error!r}). Save the recipe again.") from error


def attention_from_recipe(recipe: Recipe) -> list[str]:
    """Names of the modules whose attention is computed in bfloat16.

    Raises:
        RecipeError: the entry is no list of names.
    """
    names = recipe.settings.get(BF16_ATTENTION, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"recipe: settings[{BF16_ATTENTION!r}] is no list of modules' names. Save the recipe again.")
    return names


def calibrations_from_recipe(
    operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]
) -> dict[str, OperatorCalibration]:
    """Inverse of `calibration_entries`, for the operators of a recipe that leave fp32."""
    calibrations: dict[str, OperatorCalibration] = {}
    for name, operator in operators.items():
        entry = operator.calibration
        scale, shift, exact, rounded, *grid = (
            None if key not in entry else torch.from_numpy(arrays[entry[key]].copy())
            for key in ("smoothing", SHIFT, "input_mean", "rounded_input_mean", *GRIDS)
        )
        limits: dict[str, Any] = {key: entry.get(key) for key in LIMITS}
        calibrations[name] = OperatorCalibration(
            smoothing=scale,
            channels_last=bool(entry.get(CHANNELS_LAST)),
            hands_on_integers=bool(entry.get(CHAINED)),
            rounds_sums=bool(entry.get(SUMS)),
            input_means=None if exact is None or rounded is None else InputMeans(exact, rounded),
            steps=arrays[entry[STEPS]] if STEPS in entry else None,
            weight_scale=grid[0],
            weight_zero_point=grid[1],
            shift=shift,
            **limits,
        )
    return calibrations
