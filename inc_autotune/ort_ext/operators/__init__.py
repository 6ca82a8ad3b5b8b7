"""Finding the operators that can be quantized, and what surrounds them.

Imports data and everything below it.
"""

from inc_autotune.ort_ext.operators.availability import APPROACHES, missing_kernel
from inc_autotune.ort_ext.operators.backbone import kept_in_fp32, outside_backbone
from inc_autotune.ort_ext.operators.bounds import after_activation
from inc_autotune.ort_ext.operators.discovery import LAYOUTS, Operator, Operators, find_operators, weight_matrix
from inc_autotune.ort_ext.operators.recurrent import (
    RECURRENT_TYPES,
    SCANNED_TYPES,
    Factor,
    RecurrentProduct,
    activations,
    directions,
    recurrent_products,
)
from inc_autotune.ort_ext.operators.transposed_convolution import Phases, find_phases
from inc_autotune.ort_ext.operators.unsupported import weights_in_bodies, weights_of
from inc_autotune.ort_ext.operators.weight_width import reduced_operators, warn_of_width, widest_product

__all__ = [
    "APPROACHES",
    "LAYOUTS",
    "RECURRENT_TYPES",
    "SCANNED_TYPES",
    "Factor",
    "Operator",
    "Operators",
    "Phases",
    "RecurrentProduct",
    "activations",
    "after_activation",
    "directions",
    "find_operators",
    "find_phases",
    "kept_in_fp32",
    "missing_kernel",
    "outside_backbone",
    "recurrent_products",
    "reduced_operators",
    "warn_of_width",
    "weight_matrix",
    "weights_in_bodies",
    "weights_of",
    "widest_product",
]
