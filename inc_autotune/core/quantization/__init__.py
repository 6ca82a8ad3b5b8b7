"""Arithmetic on arrays: integer types and rounding, ranges from statistics, SmoothQuant's scales and alphas.

Imports only the words at the root of the core.
"""

from inc_autotune.core.quantization.affine import (
    FRAMEWORK_SCHEMES,
    QuantizationParameters,
    decibels,
    dequantize,
    fake_quantize,
    integer_type,
    quantization_parameters,
    quantize,
    signal_to_noise_db,
)
from inc_autotune.core.quantization.corrections import InputMeans, input_means, output_shift, restore_moments
from inc_autotune.core.quantization.distinct_rows import rows_repeat
from inc_autotune.core.quantization.groups import as_groups, beside_columns
from inc_autotune.core.quantization.input_moments import InputMoments, refused_note
from inc_autotune.core.quantization.rounding_steps import pack_steps, unpack_steps
from inc_autotune.core.quantization.second_moment import SecondMoment, error_under, quantize_by_second_moment
from inc_autotune.core.quantization.smoothing_scale import group_scale, group_weight_absmax, group_weight_norm
from inc_autotune.core.quantization.smoothquant import (
    AlphaSearchResult,
    InputGroup,
    alpha_grid,
    search_alpha,
    smoothed_range,
)
from inc_autotune.core.quantization.split_statistics import (
    SAMPLED_ROWS,
    Snapshot,
    Snapshots,
    SplitStatistics,
    Statistics,
)
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.quantization.weight_grid import weight_parameters

__all__ = [
    "FRAMEWORK_SCHEMES",
    "SAMPLED_ROWS",
    "ActivationStatistics",
    "AlphaSearchResult",
    "InputGroup",
    "InputMeans",
    "InputMoments",
    "QuantizationParameters",
    "SecondMoment",
    "Snapshot",
    "Snapshots",
    "SplitStatistics",
    "Statistics",
    "alpha_grid",
    "as_groups",
    "beside_columns",
    "decibels",
    "dequantize",
    "error_under",
    "fake_quantize",
    "group_scale",
    "group_weight_absmax",
    "group_weight_norm",
    "input_means",
    "integer_type",
    "output_shift",
    "pack_steps",
    "quantization_parameters",
    "quantize",
    "quantize_by_second_moment",
    "refused_note",
    "restore_moments",
    "rows_repeat",
    "search_alpha",
    "signal_to_noise_db",
    "smoothed_range",
    "unpack_steps",
    "weight_parameters",
]
