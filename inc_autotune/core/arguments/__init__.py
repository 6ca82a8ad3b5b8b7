"""What the user asked for, checked before any work is done.

Imports quantization, for the names of dtypes, schemes and algorithms.
"""

from inc_autotune.core.arguments.autotune import (
    CORE_RECIPES,
    AccuracyCriterion,
    AutotuneArguments,
    TrainingArgs,
    validate_arguments,
)
from inc_autotune.core.arguments.base import ArgumentModel, argument_error, first_error, reading_argument
from inc_autotune.core.arguments.checks import CheckError, choice, shown
from inc_autotune.core.arguments.foreign_names import DATA_NAMES, missing_attribute, takes_foreign_names
from inc_autotune.core.arguments.paths import check_file, check_path
from inc_autotune.core.arguments.rules import OperatorRule
from inc_autotune.core.arguments.smoothing import AutoAlphaArgs, SmoothQuantArgs

__all__ = [
    "CORE_RECIPES",
    "DATA_NAMES",
    "AccuracyCriterion",
    "ArgumentModel",
    "AutoAlphaArgs",
    "AutotuneArguments",
    "CheckError",
    "OperatorRule",
    "SmoothQuantArgs",
    "TrainingArgs",
    "argument_error",
    "check_file",
    "check_path",
    "choice",
    "first_error",
    "missing_attribute",
    "reading_argument",
    "shown",
    "takes_foreign_names",
    "validate_arguments",
]
