"""Quantization-aware training: Keras models whose layers round as the integer operators that they become will.

Imports what stands below the adaptor. `build` makes a student of a Keras model and a plan, `conversion` the float model
and the plan of a trained student.
"""

from inc_autotune.tf_ext.training.build import DEFAULT_RANGES, TracedCopy, may_be_trained, student_of, traced_copy
from inc_autotune.tf_ext.training.conversion import Trained, trained
from inc_autotune.tf_ext.training.student import Student
from inc_autotune.tf_ext.training.trainer import Trainer

__all__ = [
    "DEFAULT_RANGES",
    "Student",
    "TracedCopy",
    "Trained",
    "Trainer",
    "may_be_trained",
    "student_of",
    "traced_copy",
    "trained",
]
