"""What graphs are written for: the version of TensorFlow, the form of a graph, and the switches that the user sets.

Imports graph.
"""

from inc_autotune.tf_ext.target.choices import (
    FORMS,
    KERNEL_FORM,
    QDQ_FORM,
    SWITCHES,
    GraphChoices,
    GraphForm,
    choices_of,
    read_switches,
    skipped_ends,
)
from inc_autotune.tf_ext.target.registry import has_cpu_kernel
from inc_autotune.tf_ext.target.version import check_version

__all__ = [
    "FORMS",
    "KERNEL_FORM",
    "QDQ_FORM",
    "SWITCHES",
    "GraphChoices",
    "GraphForm",
    "check_version",
    "choices_of",
    "has_cpu_kernel",
    "read_switches",
    "skipped_ends",
]
