"""Which configurations there are: the capability YAML, narrowed by the user's rules, as units and assignments.

Imports arguments and quantization.
"""

from inc_autotune.core.space.capability import Capability, load_capability, refuse_granularities
from inc_autotune.core.space.narrowing import describe_options, narrow_options
from inc_autotune.core.space.units import Assignment, OperatorKey, TuningSpace, Unit, build_space

__all__ = [
    "Assignment",
    "Capability",
    "OperatorKey",
    "TuningSpace",
    "Unit",
    "build_space",
    "describe_options",
    "load_capability",
    "narrow_options",
    "refuse_granularities",
]
