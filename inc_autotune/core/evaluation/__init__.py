"""The user's evaluation: how it is called, what it may return, and whether that meets the goal.

Imports arguments and data.
"""

from inc_autotune.core.evaluation.function import check_evaluation_arguments, with_direction_of
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.evaluation.metric import Metric, make_metric, metric_predictions, metric_value
from inc_autotune.core.evaluation.verdict import Judgement, Scores, Verdict, closing_iterator, judge, read_scores

__all__ = [
    "Goal",
    "Judgement",
    "Metric",
    "Scores",
    "Verdict",
    "check_evaluation_arguments",
    "closing_iterator",
    "judge",
    "make_metric",
    "metric_predictions",
    "metric_value",
    "read_scores",
    "with_direction_of",
]
