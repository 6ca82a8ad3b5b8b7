"""What the user gets back: the best trial with its reasons, a recipe, and a report.

Imports search and everything below it.
"""

from inc_autotune.core.result.build import build_result, choose_best, warn_of_shortcomings
from inc_autotune.core.result.comparison import Comparison
from inc_autotune.core.result.document import result_so_far
from inc_autotune.core.result.recipe import (
    OperatorRecipe,
    Recipe,
    SharedArrays,
    applying,
    check_framework,
    check_operators,
    check_smoothing,
)
from inc_autotune.core.result.tuning_result import TuningResult

__all__ = [
    "Comparison",
    "OperatorRecipe",
    "Recipe",
    "SharedArrays",
    "TuningResult",
    "applying",
    "build_result",
    "check_framework",
    "check_operators",
    "check_smoothing",
    "choose_best",
    "result_so_far",
    "warn_of_shortcomings",
]
