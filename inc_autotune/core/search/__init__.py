"""The search: what is tried next, what each trial was, and how one trial is built and scored.

Imports analysis and everything below it; study stands below strategy, and strategy below the rest.
"""

from inc_autotune.core.search.candidates import Candidates, Quantize
from inc_autotune.core.search.evaluator import Evaluate, Evaluations
from inc_autotune.core.search.options import (
    Choices,
    allowed_options,
    check_rule_types,
    find_choices,
    is_asked_for,
    offered_options,
)
from inc_autotune.core.search.ranking import Ranking
from inc_autotune.core.search.training import Trainings

__all__ = [
    "Candidates",
    "Choices",
    "Evaluate",
    "Evaluations",
    "Quantize",
    "Ranking",
    "Trainings",
    "allowed_options",
    "check_rule_types",
    "find_choices",
    "is_asked_for",
    "offered_options",
]
