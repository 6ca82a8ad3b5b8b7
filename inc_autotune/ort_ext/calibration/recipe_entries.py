"""A plan's numbers as they stand in a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.result import OperatorRecipe
from inc_autotune.graphs import recipe_entries
from inc_autotune.ort_ext.calibration.grid_tensors import find_grid
from inc_autotune.ort_ext.calibration.plan import QuantizationPlan
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator
from inc_autotune.ort_ext.target import GraphForm


def calibration_entries(
    graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan, form: GraphForm
) -> tuple[dict[str, dict[str, Any]], dict[str, FloatArray]]:
    """A plan's numbers as they stand in a recipe.

    Returns:
        Plain values by operator name, and smoothing scales by the names they have there, once for each scale.
    """
    entries, arrays = recipe_entries.calibration_entries(plan, {} if plan.folding else {"folding": False})
    static = [operators[name] for name in plan.static]
    for tensor, place in find_grid(graph, static, form, plan.output_ranges).items():
        if place.same_as is None:
            outputs = entries[place.owner].setdefault("outputs", {})
            outputs[tensor] = [float(limit) for limit in plan.output_ranges[tensor]]
    return entries, arrays


def plan_from_recipe(operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]) -> QuantizationPlan:
    """Inverse of `calibration_entries`, for the quantized operators of a recipe."""
    calibrations = recipe_entries.calibrations_from_recipe(operators, arrays)
    configs = {name: operator.config for name, operator in operators.items()}
    entries = [operator.calibration for operator in operators.values()]
    outputs = [each.get("outputs", {}) for each in entries]
    ranges = {tensor: (low, high) for each in outputs for tensor, (low, high) in each.items()}
    folding = all(each.get("folding", True) for each in entries)
    return QuantizationPlan(configs, calibrations, ranges, folding)
