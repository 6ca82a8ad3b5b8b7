"""Seconds and bytes: of whole models, and of single units.

Imports emission and everything below it.
"""

from inc_autotune.ort_ext.measurement.models import session_clock, weight_bytes
from inc_autotune.ort_ext.measurement.units import measure_units

__all__ = ["measure_units", "session_clock", "weight_bytes"]
