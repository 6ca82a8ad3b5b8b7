"""One pass over the data, and from it the ranges and scales of one configuration: the plan.

Imports operators and everything below it.
"""

from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.calibration.collect import outputs_or_none, run_inside, run_steps, watching, with_tensors
from inc_autotune.tf_ext.calibration.conversion import half_note
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK, QuantizationPlan
from inc_autotune.tf_ext.calibration.ranges import can_correct, group_weights, integer_dtype, make_plan
from inc_autotune.tf_ext.calibration.recipe_entries import calibration_entries, plan_from_recipe

__all__ = [
    "FRAMEWORK",
    "Analysis",
    "QuantizationPlan",
    "calibration_entries",
    "can_correct",
    "group_weights",
    "half_note",
    "integer_dtype",
    "make_plan",
    "outputs_or_none",
    "plan_from_recipe",
    "run_inside",
    "run_steps",
    "watching",
    "with_tensors",
]
