"""Finding the operators that can be quantized, and what surrounds them.

Imports data and everything below it.
"""

from inc_autotune.tf_ext.operators.depthwise import DEPTHWISE_REASON, depthwise_neighbours
from inc_autotune.tf_ext.operators.discovery import (
    CONVOLUTION,
    DEPTHWISE,
    LINEAR_TYPES,
    LOOKUP,
    TRANSPOSED_TYPES,
    VOLUME,
    Operator,
    find_operators,
    geometry_of,
    is_pointwise,
    kernel_weight,
)
from inc_autotune.tf_ext.operators.gelu import ActivationFunction
from inc_autotune.tf_ext.operators.other_weights import find_weights
from inc_autotune.tf_ext.operators.residual import Residual, find_residuals
from inc_autotune.tf_ext.operators.transposed import TransposedGeometry

__all__ = [
    "CONVOLUTION",
    "DEPTHWISE",
    "DEPTHWISE_REASON",
    "LINEAR_TYPES",
    "LOOKUP",
    "TRANSPOSED_TYPES",
    "VOLUME",
    "ActivationFunction",
    "Operator",
    "Residual",
    "TransposedGeometry",
    "depthwise_neighbours",
    "find_operators",
    "find_residuals",
    "find_weights",
    "geometry_of",
    "is_pointwise",
    "kernel_weight",
]
