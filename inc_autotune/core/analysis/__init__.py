"""Measurements on models without the user's evaluation: output errors, sensitivity, alphas, speed.

Imports the adaptor's interface and everything below it.
"""

from inc_autotune.core.analysis.block_search import SupportsBlocks
from inc_autotune.core.analysis.correction_plan import (
    CorrectionPlan,
    SupportsCorrections,
    plan_corrections,
    planned_corrections,
    possible_corrections,
)
from inc_autotune.core.analysis.form_plan import COMPARED_AGAIN, SupportsSmoothingForms, plan_forms, planned_forms
from inc_autotune.core.analysis.gain import SupportsFootprint, SupportsSize, SupportsThreads, SupportsTiming
from inc_autotune.core.analysis.inspection import Inspection, OperatorOptions, inspect_model
from inc_autotune.core.analysis.operator_errors import (
    ComparedOperator,
    Histogram,
    OperatorError,
    Recorder,
    SupportsOperatorErrors,
    operator_errors,
)
from inc_autotune.core.analysis.output_error import (
    LARGEST_OUTPUT,
    SupportsComparison,
    candidate_errors,
    error_or_infinity,
    relative_error,
)
from inc_autotune.core.analysis.rounding_plan import (
    BY_SECOND_MOMENTS,
    NO_MOMENT,
    NO_SUM,
    OTHERS_READ_IT,
    SupportsRounding,
    plan_rounding,
)
from inc_autotune.core.analysis.sensitivity import (
    SupportsGradients,
    SupportsHalves,
    UnitHarm,
    choose_fallback,
    estimate_harms,
    probe_halves,
    rank_units,
)
from inc_autotune.core.analysis.shared_calibration import SupportsSharedCalibration, calibrated
from inc_autotune.core.analysis.smoothing_plan import (
    OFF,
    SmoothingPlan,
    SupportsIntegerProduct,
    SupportsSmoothing,
    plan_smoothing,
    planned_steps,
    searched_alphas,
    searched_forms,
)
from inc_autotune.core.analysis.timing import Call, Clock, interleaved_seconds, seconds, thread_clock, wall_clock
from inc_autotune.core.analysis.training import (
    NOTHING_CHANGED,
    TRAINED,
    StudentState,
    SupportsTraining,
    TrainFunction,
    Training,
    check_trainable,
    train,
)
from inc_autotune.core.analysis.unit_speed import (
    LEAST_SPEEDUP,
    SupportsUnitSpeeds,
    is_meant_to_be_fast,
    measured_speeds,
    slow_units,
)
from inc_autotune.core.analysis.unit_timing import TimedOperator, TimedUnit, time_units
from inc_autotune.core.analysis.variants import SupportsVariants, variants_of
from inc_autotune.core.analysis.weight_shares import (
    SMALLEST_SHARE,
    SupportsWeights,
    Weights,
    operator_weights,
    percent,
    skipped_operators,
    with_share,
)
from inc_autotune.core.analysis.whole_speed import losing_chains, slowing_units

__all__ = [
    "BY_SECOND_MOMENTS",
    "COMPARED_AGAIN",
    "LARGEST_OUTPUT",
    "LEAST_SPEEDUP",
    "NOTHING_CHANGED",
    "NO_MOMENT",
    "NO_SUM",
    "OFF",
    "OTHERS_READ_IT",
    "SMALLEST_SHARE",
    "TRAINED",
    "Call",
    "Clock",
    "ComparedOperator",
    "CorrectionPlan",
    "Histogram",
    "Inspection",
    "OperatorError",
    "OperatorOptions",
    "Recorder",
    "SmoothingPlan",
    "StudentState",
    "SupportsBlocks",
    "SupportsComparison",
    "SupportsCorrections",
    "SupportsFootprint",
    "SupportsGradients",
    "SupportsHalves",
    "SupportsIntegerProduct",
    "SupportsOperatorErrors",
    "SupportsRounding",
    "SupportsSharedCalibration",
    "SupportsSize",
    "SupportsSmoothing",
    "SupportsSmoothingForms",
    "SupportsThreads",
    "SupportsTiming",
    "SupportsTraining",
    "SupportsUnitSpeeds",
    "SupportsVariants",
    "SupportsWeights",
    "TimedOperator",
    "TimedUnit",
    "TrainFunction",
    "Training",
    "UnitHarm",
    "Weights",
    "calibrated",
    "candidate_errors",
    "check_trainable",
    "choose_fallback",
    "error_or_infinity",
    "estimate_harms",
    "inspect_model",
    "interleaved_seconds",
    "is_meant_to_be_fast",
    "losing_chains",
    "measured_speeds",
    "operator_errors",
    "operator_weights",
    "percent",
    "plan_corrections",
    "plan_forms",
    "plan_rounding",
    "plan_smoothing",
    "planned_corrections",
    "planned_forms",
    "planned_steps",
    "possible_corrections",
    "probe_halves",
    "rank_units",
    "relative_error",
    "searched_alphas",
    "searched_forms",
    "seconds",
    "skipped_operators",
    "slow_units",
    "slowing_units",
    "thread_clock",
    "time_units",
    "train",
    "variants_of",
    "wall_clock",
    "with_share",
]
