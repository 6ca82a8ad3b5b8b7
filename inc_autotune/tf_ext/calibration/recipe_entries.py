"""A plan's numbers as they stand in a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.result.recipe import OperatorRecipe
from inc_autotune.tf_ext.calibration.plan import OperatorCalibration
from inc_autotune.tf_ext.target.choices import GraphChoices


def calibration_entries(
    configs: Mapping[str, OpConfig], calibrations: Mapping[str, OperatorCalibration], choices: GraphChoices
) -> tuple[dict[str, dict[str, Any]], dict[str, FloatArray]]:
    """A plan's numbers as they stand in a recipe.

    Returns:
        Plain values by operator name, and smoothing scales by the names they have there, once for each scale.
    """
    arrays: dict[str, FloatArray] = {}
    names: dict[bytes, str] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name in configs:
        calibration = calibrations.get(name, OperatorCalibration())
        entry: dict[str, Any] = {}
        for key, limits in (("input", calibration.range), ("output", calibration.output_range)):
            if limits is not None:
                entry[f"{key}_minimum"], entry[f"{key}_maximum"] = map(float, limits)
        if calibration.smoothing is not None:
            key = names.setdefault(calibration.smoothing.tobytes(), f"{name}.smoothing")
            arrays[key] = calibration.smoothing
            entry["smoothing"] = key
        if calibration.reduce_range:
            entry["reduce_range"] = True
        default = asdict(GraphChoices())
        entry |= {key: value for key, value in asdict(choices).items() if value != default[key]}
        entries[name] = entry
    return entries, arrays


def calibrations_from_recipe(
    operators: Mapping[str, OperatorRecipe], arrays: Mapping[str, Any]
) -> tuple[dict[str, OperatorCalibration], GraphChoices]:
    """Inverse of `calibration_entries`, for the operators of a recipe that leave fp32."""
    choices = asdict(GraphChoices())
    calibrations: dict[str, OperatorCalibration] = {}
    for name, operator in operators.items():
        entry = operator.calibration
        smoothing = entry.get("smoothing")
        calibrations[name] = OperatorCalibration(
            _limits(entry, "input"),
            None if smoothing is None else np.asarray(arrays[smoothing], np.float32),
            _limits(entry, "output"),
            bool(entry.get("reduce_range")),
        )
        choices |= {key: entry[key] for key in choices if key in entry}
    return calibrations, GraphChoices(**choices)


def _limits(entry: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    if f"{key}_minimum" not in entry:
        return None
    return float(entry[f"{key}_minimum"]), float(entry[f"{key}_maximum"])
