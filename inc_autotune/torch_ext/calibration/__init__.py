"""One pass over the data, and from it the ranges and scales of the operators of one configuration.

Imports operators and everything below it.
"""

from inc_autotune.torch_ext.calibration.by_function import calibrate_by_function
from inc_autotune.torch_ext.calibration.collect import (
    MEASURED_SAMPLES,
    Collector,
    calibrate,
    calibrate_again,
    describe_batch,
    input_of,
)
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.calibration.ranges import group_weights, operator_calibrations
from inc_autotune.torch_ext.calibration.recipe_entries import (
    PRODUCT,
    REDUCED,
    calibration_entries,
    calibrations_from_recipe,
    products_from_recipe,
)

__all__ = [
    "MEASURED_SAMPLES",
    "PRODUCT",
    "REDUCED",
    "Collector",
    "OperatorCalibration",
    "calibrate",
    "calibrate_again",
    "calibrate_by_function",
    "calibration_entries",
    "calibrations_from_recipe",
    "describe_batch",
    "group_weights",
    "input_of",
    "operator_calibrations",
    "products_from_recipe",
]
