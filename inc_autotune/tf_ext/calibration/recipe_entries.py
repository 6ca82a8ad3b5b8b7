"""A plan's numbers as they stand in a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.result import OperatorRecipe
from inc_autotune.graphs import recipe_entries
from inc_autotune.tf_ext.calibration.plan import QuantizationPlan
from inc_autotune.tf_ext.target import GraphChoices


def calibration_entries(plan: QuantizationPlan) -> tuple[dict[str, dict[str, Any]], dict[str, FloatArray]]:
    """A plan's numbers as they stand in a recipe, with the choices that are not the usual ones.

    Returns:
        Plain values by operator name, and smoothing scales by the names they have there, once for each scale.
    """
    usual = asdict(GraphChoices())
    choices = {key: value for key, value in asdict(plan.choices).items() if value != usual[key]}
    return recipe_entries.calibration_entries(plan, choices)


def plan_from_recipe(operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]) -> QuantizationPlan:
    """Inverse of `calibration_entries`, for the operators of a recipe that leave fp32; none is simulated yet."""
    calibrations = recipe_entries.calibrations_from_recipe(operators, arrays)
    choices = asdict(GraphChoices())
    for operator in operators.values():
        choices |= {key: operator.calibration[key] for key in choices if key in operator.calibration}
    configs = {name: operator.config for name, operator in operators.items()}
    return QuantizationPlan(configs, calibrations, choices=GraphChoices(**choices))
