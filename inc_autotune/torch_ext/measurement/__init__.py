"""Seconds and bytes, of whole models and of single units; sensitivity from gradients.

Imports modules and everything below it.
"""

from inc_autotune.torch_ext.measurement.footprint import peak_bytes
from inc_autotune.torch_ext.measurement.gradient_sensitivity import gradient_sensitivities
from inc_autotune.torch_ext.measurement.models import (
    interleaved_seconds,
    interleaved_seconds_in_threads,
    measured_copy,
    weight_bytes,
)
from inc_autotune.torch_ext.measurement.units import measure_units

__all__ = [
    "gradient_sensitivities",
    "interleaved_seconds",
    "interleaved_seconds_in_threads",
    "measure_units",
    "measured_copy",
    "peak_bytes",
    "weight_bytes",
]
