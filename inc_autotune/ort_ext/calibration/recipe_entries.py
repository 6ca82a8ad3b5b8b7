"""A plan's numbers as they stand in a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.result.recipe import OperatorRecipe
from inc_autotune.ort_ext.calibration.grid_tensors import find_grid
from inc_autotune.ort_ext.calibration.plan import OperatorCalibration, QuantizationPlan
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.operators.discovery import Operator
from inc_autotune.ort_ext.target.forms import GraphForm


def calibration_entries(
    graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan, form: GraphForm
) -> tuple[dict[str, dict[str, Any]], dict[str, FloatArray]]:
    """A plan's numbers as they stand in a recipe.

    Returns:
        Plain values by operator name, and smoothing scales by the names they have there, once for each scale.
    """
    arrays: dict[str, FloatArray] = {}
    names: dict[bytes, str] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, calibration in plan.calibrations.items():
        entry: dict[str, Any] = {}
        if calibration.range is not None:
            entry["input_minimum"], entry["input_maximum"] = map(float, calibration.range)
        if calibration.smoothing is not None:
            key = names.setdefault(calibration.smoothing.tobytes(), f"{name}.smoothing")
            arrays[key] = calibration.smoothing
            entry["smoothing"] = key
        if name in plan.reduced:
            entry["reduce_range"] = True
        if not plan.folding:
            entry["folding"] = False
        entries[name] = entry
    static = [operators[name] for name in plan.static]
    for tensor, place in find_grid(graph, static, form, plan.output_ranges).items():
        if place.same_as is None:
            outputs = entries[place.owner].setdefault("outputs", {})
            outputs[tensor] = [float(limit) for limit in plan.output_ranges[tensor]]
    return entries, arrays


def plan_from_recipe(operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]) -> QuantizationPlan:
    """Inverse of `calibration_entries`, for the quantized operators of a recipe."""
    calibrations: dict[str, OperatorCalibration] = {}
    ranges: dict[str, tuple[float, float]] = {}
    folding = True
    for name, operator in operators.items():
        entry = operator.calibration
        limits = (entry["input_minimum"], entry["input_maximum"]) if "input_minimum" in entry else None
        smoothing = entry.get("smoothing")
        scale = None if smoothing is None else np.asarray(arrays[smoothing], np.float32)
        calibrations[name] = OperatorCalibration(limits, scale)
        ranges |= {tensor: (low, high) for tensor, (low, high) in entry.get("outputs", {}).items()}
        folding = folding and entry.get("folding", True)
    configs = {name: operator.config for name, operator in operators.items()}
    reduced = frozenset(name for name, operator in operators.items() if operator.calibration.get("reduce_range"))
    return QuantizationPlan(configs, calibrations, ranges, reduced, folding)
