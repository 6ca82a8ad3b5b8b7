"""Corrections of what rounding an operator's input and weight shifts, at no cost at run time.

Rounding moves the mean of every output channel; a bias takes that back. Rounding moves the mean and the norm of every
channel of the weight; other integers and another scale take that back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import array_api_compat

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import QuantizationParameters, fake_quantize, quantization_parameters
from inc_autotune.core.quantization.statistics import ActivationStatistics

_BLOCK_ELEMENTS = 1 << 16
"""Of a weight that are worked on at a time, in temporaries of a few times as many bytes."""

_ROUNDS = 2
"""Of restoring norm and mean, since each moves the other a little."""


@dataclass(frozen=True, eq=False)
class InputMeans:
    """Means of an operator's input over the calibration data, after smoothing.

    Args:
        exact: float32 [in_channels].
        rounded: the same of what an integer kernel multiplies; float32 [in_channels].
    """

    exact: AnyNamespaceArray
    rounded: AnyNamespaceArray


def input_means(
    statistics: ActivationStatistics,
    scale: AnyNamespaceArray | None,
    config: TensorConfig,
    limits: tuple[float, float] | None,
    *,
    framework: str = "pytorch",
) -> InputMeans:
    """Means of an activation before and after it is rounded and clipped.

    The first is exact. The difference is that of the sampled rows, channel by channel, as far as it is more than the
    chance of the sample: multiplied by `1 - v / d^2` with the difference `d` and the variance `v` of its mean, or zero.

    Args:
        statistics: of the activation before smoothing.
        scale: smoothing scale [in_channels]; None: not smoothed.
        config: the activation's.
        limits: smallest and largest value after smoothing; None: found at run time, so that nothing is clipped, and
            both means are the same.
        framework: a key of `FRAMEWORK_SCHEMES`.

    Raises:
        CalibrationError: nothing was seen.
    """
    mean = statistics.channel_mean if scale is None else statistics.channel_mean / scale
    rows = statistics.sampled_rows
    if limits is None or rows is None:
        return InputMeans(mean, mean)
    xp = array_api_compat.array_namespace(rows)
    rows = rows if scale is None else rows / scale
    parameters = quantization_parameters(
        *limits, dtype=config.dtype, scheme=config.scheme or "asym", framework=framework
    )
    difference = fake_quantize(rows, parameters) - rows
    shift = xp.mean(difference, axis=0)
    variance = xp.mean((difference - shift) ** 2, axis=0) / rows.shape[0]
    # Of an equal difference everywhere nothing is chance; where it is zero so is the shift.
    share = xp.clip(1 - variance / xp.clip(shift * shift, min=1e-30), min=0.0)
    return InputMeans(mean, mean + shift * share)


def output_shift(
    weight: AnyNamespaceArray, rounded: AnyNamespaceArray, means: InputMeans, groups: int = 1
) -> AnyNamespaceArray:
    """How far rounding has moved the mean of each output channel down: what a bias has to add.

    Exact for a matrix product. Of a convolution every tap is taken to see the mean of its channel, also at the border.

    Args:
        weight: [out_channels, in_channels / groups, *kernel], after smoothing.
        rounded: the same as the integers stand for.
        means: of the operator's input, [in_channels].
        groups: of a convolution.

    Returns:
        Float32 [out_channels].

    Source: fast bias correction of NNCF and Intel Neural Compressor; Finkelstein et al., Fighting Quantization Bias
        With Bias, 2019; Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
        2019, eq. 17.
    """
    return _mean_output(weight, means.exact, groups) - _mean_output(rounded, means.rounded, groups)


def restore_moments(
    weight: AnyNamespaceArray, integers: AnyNamespaceArray, parameters: QuantizationParameters, axis: int
) -> tuple[AnyNamespaceArray, QuantizationParameters]:
    """Integers and scale whose mean and norm, channel by channel, are those of the float weight.

    The scale is multiplied by the ratio of the standard deviations. Then as many integers as it takes are rounded the
    other way, those first that were farthest from theirs, until the mean of a channel is at most half a step over its
    number of elements from that of the weight. A channel whose mean and norm together do not come closer stays as it
    is, so where rounding lost nothing, nothing changes.

    Args:
        weight: float, any shape.
        integers: what it was rounded to, as floats of the same shape.
        parameters: one scale, or one for each channel.
        axis: of the output channels.

    Returns:
        Integers as floats in the shape of `weight`, and their parameters.

    Source: Banner et al., Post Training 4-Bit Quantization of Convolutional Networks for Rapid-Deployment, NeurIPS
        2019, section 4 (there in float: a mean that no integers have); rounding the other way after Guo et al., SQuant,
        ICLR 2022.
    """
    xp = array_api_compat.array_namespace(weight)
    shape = xp.moveaxis(weight, axis, 0).shape
    rows = xp.reshape(xp.moveaxis(weight, axis, 0), (shape[0], -1))
    nearest = xp.reshape(xp.moveaxis(xp.astype(integers, xp.float32), axis, 0), (shape[0], -1))
    # Channels with scales of their own do not depend on each other.
    step = max(_BLOCK_ELEMENTS // max(rows.shape[1], 1), 1) if parameters.scale.ndim else shape[0]
    kept, scales = [], []
    for start in range(0, shape[0], step):
        block = slice(start, start + step)
        part = parameters
        if parameters.scale.ndim:
            part = replace(parameters, scale=parameters.scale[block], zero_point=parameters.zero_point[block])
        values, scale = _restored_rows(xp, rows[block], nearest[block], part)
        kept.append(values)
        scales.append(scale)
    restored = xp.moveaxis(xp.reshape(xp.concat(kept), shape), 0, axis)
    return restored, replace(parameters, scale=xp.concat(scales) if parameters.scale.ndim else scales[0])


def _restored_rows(
    xp: Any, rows: AnyNamespaceArray, nearest: AnyNamespaceArray, parameters: QuantizationParameters
) -> tuple[AnyNamespaceArray, AnyNamespaceArray]:
    """Integers of the rows, [channels, elements], and their scale; see `restore_moments`."""
    zeros = _beside_rows(xp.astype(parameters.zero_point, xp.float32))
    moved, scale = nearest, parameters.scale
    mean, spread = _mean_and_spread(xp, rows, 1)
    wanted = spread if scale.ndim else _mean_and_spread(xp, rows, None)[1]
    for _ in range(_ROUNDS):
        scale = _with_norm(xp, wanted, moved - zeros, scale)
        exact = rows / _beside_rows(scale) + zeros
        moved = _with_mean(xp, exact, moved, parameters.quant_min, parameters.quant_max)
    before = _distance(xp, mean, spread, (nearest - zeros) * _beside_rows(parameters.scale))
    after = _distance(xp, mean, spread, (moved - zeros) * _beside_rows(scale))
    # With one scale all channels change, or none.
    is_closer = after < before if scale.ndim else xp.sum(after) < xp.sum(before)
    return xp.where(_beside_rows(is_closer), moved, nearest), xp.where(is_closer, scale, parameters.scale)


def _beside_rows(values: AnyNamespaceArray) -> AnyNamespaceArray:
    """One value, or one for each row, to broadcast against rows."""
    return values[:, None] if values.ndim else values


def _mean_and_spread(xp: Any, rows: AnyNamespaceArray, axis: int | None) -> tuple[AnyNamespaceArray, AnyNamespaceArray]:
    """Mean and standard deviation, [channels], or of all.

    Not by `std`, which torch computes one element after another.
    """
    mean = xp.mean(rows, axis=axis)
    centred = rows - (_beside_rows(mean) if axis == 1 else mean)
    return mean, xp.sqrt(xp.mean(centred * centred, axis=axis))


def _distance(
    xp: Any, mean: AnyNamespaceArray, spread: AnyNamespaceArray, others: AnyNamespaceArray
) -> AnyNamespaceArray:
    """Squared distance of the rows' mean and standard deviation from those of others, [channels]."""
    means, spreads = _mean_and_spread(xp, others, 1)
    return (mean - means) ** 2 + (spread - spreads) ** 2


def _mean_output(weight: AnyNamespaceArray, mean: AnyNamespaceArray, groups: int) -> AnyNamespaceArray:
    xp = array_api_compat.array_namespace(weight)
    outputs, inputs = weight.shape[:2]
    by_channel = xp.sum(xp.reshape(weight, (groups, outputs // groups, inputs, -1)), axis=-1)
    return xp.reshape(xp.sum(by_channel * xp.reshape(mean, (groups, 1, inputs)), axis=-1), (outputs,))


def _with_norm(
    xp: Any, wanted: AnyNamespaceArray, steps: AnyNamespaceArray, scale: AnyNamespaceArray
) -> AnyNamespaceArray:
    """The scale with which the integers have a standard deviation; the same for constant ones."""
    found = _mean_and_spread(xp, steps, 1 if scale.ndim else None)[1]
    is_known = (wanted > 0) & (found > 0)
    ratio = xp.sign(scale) * wanted / xp.where(found > 0, found, xp.ones_like(found))
    # What float32 makes of equal numbers is no loss.
    changed = is_known & (xp.abs(ratio - scale) > 1e-6 * xp.abs(scale))
    return xp.where(changed, ratio, scale)


def _with_mean(
    xp: Any, exact: AnyNamespaceArray, integers: AnyNamespaceArray, lowest: int, highest: int
) -> AnyNamespaceArray:
    """Integers [channels, elements] whose sums are nearest to those of the exact numbers in their steps.

    Every integer is moved by one at most, towards its number.
    """
    count = xp.round(xp.sum(exact - integers, axis=1, dtype=xp.float64))
    (changed,) = xp.nonzero(count)
    if changed.shape[0] == count.shape[0]:
        return _moved(xp, exact, integers, count, lowest, highest)
    result = xp.asarray(integers, copy=True)
    if changed.shape[0]:
        numbers, before, counts = (xp.take(each, changed, axis=0) for each in (exact, integers, count))
        result[changed] = _moved(xp, numbers, before, counts, lowest, highest)
    return result


def _moved(
    xp: Any,
    exact: AnyNamespaceArray,
    integers: AnyNamespaceArray,
    count: AnyNamespaceArray,
    lowest: int,
    highest: int,
) -> AnyNamespaceArray:
    """Integers of which `count` a row are moved by one, upwards where it is positive: those that gain most."""
    error = exact - integers
    direction = xp.astype(xp.sign(count), integers.dtype)[:, None]
    gain = error * direction
    moved = integers + direction
    # Of equal ones the first are moved.
    order = xp.arange(gain.shape[1], dtype=xp.float64, device=array_api_compat.device(gain))
    gain = xp.astype(gain, xp.float64) * (1 - 1e-12 * order)
    gain = xp.where((moved >= lowest) & (moved <= highest) & (gain > 0), gain, xp.zeros_like(gain))
    index = xp.clip(xp.astype(xp.abs(count), xp.int64) - 1, min=0, max=gain.shape[1] - 1)
    least = xp.take_along_axis(xp.sort(gain, axis=1, descending=True), index[:, None], axis=1)
    chosen = (gain >= least) & (gain > 0) & (count != 0)[:, None]
    return xp.where(chosen, moved, integers)
