"""Seconds and bytes: of whole models, and of single units.

Imports emission and everything below it.
"""

from inc_autotune.tf_ext.measurement.kernel_trial import KERNELS, KernelSupport, is_simulated, kernel_support
from inc_autotune.tf_ext.measurement.models import clock, has_one_thread, measure_units, weight_bytes
from inc_autotune.tf_ext.measurement.subgraph import Subgraph

__all__ = [
    "KERNELS",
    "KernelSupport",
    "Subgraph",
    "clock",
    "has_one_thread",
    "is_simulated",
    "kernel_support",
    "measure_units",
    "weight_bytes",
]
