"""One pass over the data, and from it the ranges and scales of one configuration: the plan.

Imports operators and everything below it.
"""

from inc_autotune.ort_ext.calibration.analysis import Analysis
from inc_autotune.ort_ext.calibration.collect import outputs_or_none, run_fp32, watching
from inc_autotune.ort_ext.calibration.conversion import conversion_note
from inc_autotune.ort_ext.calibration.grid_tensors import GridTensor, constants_on_grid, find_grid
from inc_autotune.ort_ext.calibration.plan import FRAMEWORK, QuantizationPlan
from inc_autotune.ort_ext.calibration.ranges import (
    can_correct_bias,
    can_correct_weight,
    group_weights,
    input_groups,
    make_plan,
    weight_of,
)
from inc_autotune.ort_ext.calibration.recipe_entries import calibration_entries, plan_from_recipe

__all__ = [
    "FRAMEWORK",
    "Analysis",
    "GridTensor",
    "QuantizationPlan",
    "calibration_entries",
    "can_correct_bias",
    "can_correct_weight",
    "constants_on_grid",
    "conversion_note",
    "find_grid",
    "group_weights",
    "input_groups",
    "make_plan",
    "outputs_or_none",
    "plan_from_recipe",
    "run_fp32",
    "watching",
    "weight_of",
]
