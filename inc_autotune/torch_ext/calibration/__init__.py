"""One pass over the data, and from it the ranges and scales of the operators of one configuration.

Imports operators and everything below it.
"""

from inc_autotune.torch_ext.calibration.by_function import calibrate_by_function
from inc_autotune.torch_ext.calibration.calibration_state import pack_calibration, unpack_calibration
from inc_autotune.torch_ext.calibration.collect import (
    MEASURED_SAMPLES,
    Collector,
    calibrate,
    calibrate_again,
    describe_batch,
)
from inc_autotune.torch_ext.calibration.moments import input_of, moment_names, nearest_reason
from inc_autotune.torch_ext.calibration.observed import Observed, merged_observations
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.calibration.ranges import group_weights, operator_calibrations
from inc_autotune.torch_ext.calibration.recipe_entries import (
    BF16_ATTENTION,
    PRODUCT,
    REDUCED,
    STEPS,
    STEPS_LEFT_OUT,
    attention_from_recipe,
    calibration_entries,
    calibrations_from_recipe,
    products_from_recipe,
    without_ranges,
    without_steps,
)
from inc_autotune.torch_ext.calibration.tied_tables import follow_products, shared_weights

__all__ = [
    "BF16_ATTENTION",
    "MEASURED_SAMPLES",
    "PRODUCT",
    "REDUCED",
    "STEPS",
    "STEPS_LEFT_OUT",
    "Collector",
    "Observed",
    "OperatorCalibration",
    "attention_from_recipe",
    "calibrate",
    "calibrate_again",
    "calibrate_by_function",
    "calibration_entries",
    "calibrations_from_recipe",
    "describe_batch",
    "follow_products",
    "group_weights",
    "input_of",
    "merged_observations",
    "moment_names",
    "nearest_reason",
    "operator_calibrations",
    "pack_calibration",
    "products_from_recipe",
    "shared_weights",
    "unpack_calibration",
    "without_ranges",
    "without_steps",
]
