"""Arithmetic on arrays: integer types and rounding, ranges from statistics, SmoothQuant's scales and alphas.

Imports only the words at the root of the core.
"""

from inc_autotune.core.quantization.affine import (
    dequantize,
    fake_quantize,
    quantization_parameters,
    quantize,
    weight_parameters,
)

__all__ = ["dequantize", "fake_quantize", "quantization_parameters", "quantize", "weight_parameters"]
