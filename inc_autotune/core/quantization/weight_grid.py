"""The grid of a weight: its range, shrunk where that leaves less error, as scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import array_api_compat
import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import (
    QuantizationParameters,
    as_float32,
    check_choice,
    fake_quantize,
    integer_type,
    quantization_parameters,
    scheme_table,
)
from inc_autotune.core.vocabulary import WEIGHT_ALGORITHMS, WEIGHT_GRANULARITIES

_SHRINK_FACTORS = tuple(float(factor) for factor in np.linspace(1.0, 0.2, 41))


def weight_parameters(
    weight: AnyNamespaceArray,
    config: TensorConfig,
    *,
    axis: int = 0,
    framework: str = "pytorch",
    reduce_range: bool = False,
    zero_point_parts: int = 1,
) -> QuantizationParameters:
    """Quantization parameters of a weight.

    Args:
        weight: any shape, any float dtype.
        config: an integer dtype; `granularity`, of which all but `per_tensor` want a scale for each index of `axis`,
            which for groups is an axis of groups; `algorithm` `minmax` (the default) or
            `mse`, which shrinks the range of each channel to the least squared error (41 steps, down to a fifth).
            Under `sym`, signed integers have one more level below zero than above: in groups the value farthest from
            zero is the lowest integer, so the scale is negative where that value is positive.
        axis: the axis of output channels, or of groups.
        framework: a key of `FRAMEWORK_SCHEMES`.
        reduce_range: one bit less.
        zero_point_parts: see `quantization_parameters`.

    Returns:
        Parameters with one scale, or one for each index of `axis`.

    Raises:
        ArgumentError: a part of `config` is not among the above, or the weight holds NaN or infinity.
    """
    granularity, algorithm, scheme = config.granularity or "per_tensor", config.algorithm or "minmax", config.scheme
    check_choice("granularity", granularity, WEIGHT_GRANULARITIES)
    check_choice("algorithm", algorithm, WEIGHT_ALGORITHMS)
    xp = array_api_compat.array_namespace(weight)
    weight = as_float32(xp, weight)
    channel_axis = None if granularity == "per_tensor" else axis % weight.ndim
    reduced_axes = tuple(index for index in range(weight.ndim) if index != channel_axis)
    minimum, maximum = xp.min(weight, axis=reduced_axes), xp.max(weight, axis=reduced_axes)

    parameters_for: Callable[[AnyNamespaceArray, AnyNamespaceArray], QuantizationParameters] = partial(
        quantization_parameters,
        dtype=config.dtype,
        scheme=scheme or "sym",
        framework=framework,
        reduce_range=reduce_range,
        zero_point_parts=zero_point_parts,
    )
    if config.group_size is not None and (scheme or "sym") == "sym" and integer_type(config.dtype).signed:
        parameters_for = partial(_farthest_is_lowest, dtype=config.dtype, framework=framework)
    if algorithm == "minmax":
        return parameters_for(minimum, maximum)
    best_factor, least_error = xp.ones_like(minimum), None
    for factor in _SHRINK_FACTORS:
        error = fake_quantize(weight, parameters_for(minimum * factor, maximum * factor), channel_axis)
        error -= weight
        error = xp.sum(error * error, axis=reduced_axes)
        if least_error is None:
            least_error = error
        best_factor = xp.where(error < least_error, xp.full_like(best_factor, factor), best_factor)
        least_error = xp.minimum(error, least_error)
    return parameters_for(minimum * best_factor, maximum * best_factor)


def _farthest_is_lowest(
    minimum: AnyNamespaceArray, maximum: AnyNamespaceArray, *, dtype: str, framework: str
) -> QuantizationParameters:
    """A symmetric grid on which the lowest integer stands for the end of the range that is farther from zero.

    Source: blockwise quantization of ONNX Runtime (MlasQuantizeBlockwise) and Q4_0 of llama.cpp.
    """
    # Refuses what is no range.
    plain = quantization_parameters(minimum, maximum, dtype=dtype, scheme="sym", framework=framework)
    xp, kind, table = array_api_compat.array_namespace(minimum), integer_type(dtype), scheme_table(framework)
    scale = xp.where(-minimum >= maximum, minimum, maximum) / kind.minimum
    scale = xp.where(xp.abs(scale) < table.smallest_scale, xp.full_like(scale, table.dead_scale), scale)
    zero_point = xp.zeros_like(plain.zero_point)
    return QuantizationParameters(scale, zero_point, kind.minimum, kind.maximum, zero_point_is_zero=True)
