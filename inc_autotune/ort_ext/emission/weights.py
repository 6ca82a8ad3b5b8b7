"""Weights in blocks that share a scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import (
    QuantizationParameters,
    SecondMoment,
    integer_type,
    pack_steps,
    quantize,
    quantize_by_second_moment,
    weight_parameters,
)
from inc_autotune.graphs import QuantizedWeight, Steps, moved
from inc_autotune.ort_ext.calibration import FRAMEWORK

LARGEST_BLOCKS = {4: 32, 8: 128}
"""Elements that share a scale in a weight-only weight, by bits. 4 bits need small blocks for accuracy; 8 bits do not,
and large blocks are faster."""

SMALLEST_BLOCK = 16


def block_size(features: int, config: TensorConfig) -> int:
    """Elements of an output channel that share a scale: as asked, or the largest block that pads the fewest elements.

    Args:
        features: elements of an output channel.
        config: of a weight-only weight.
    """
    if config.group_size is not None:
        return config.group_size
    bits = stored_bits(config)
    sizes = [size for size in (128, 64, 32, SMALLEST_BLOCK) if size <= LARGEST_BLOCKS[bits]]
    return min(sizes, key=lambda size: -features % size)


def stored_bits(config: TensorConfig) -> int:
    """Bits that hold an integer of a weight-only weight: 4 or 8."""
    return 4 if integer_type(config.dtype).bits <= 4 else 8


def quantize_blocks(
    matrix: FloatArray, config: TensorConfig, bits: int, block: int, steps: Steps | None = None
) -> QuantizedWeight:
    """Round a matrix to 4 or 8 bits, with a scale for each block of an output channel.

    Args:
        matrix: float32 [out_features, in_features].
        config: a signed symmetric dtype of at most `bits` bits.
        bits: 4 or 8, how integers are stored.
        block: elements of an output channel that share a scale.
        steps: from `block_steps`; None: integers are the nearest ones.

    Returns:
        `values` uint8 [out_features, blocks, block * bits / 8], two integers of 4 bits in a byte, the first in the
        lower half; `scale` [out_features, blocks], 0 for blocks of zeros. As MatMulNBits takes them: symmetric integers
        are stored with their middle, 8 or 128, added.

    Raises:
        RecipeError: the steps are of another weight.
    """
    outputs, inputs = matrix.shape
    rows, parameters = _in_blocks(matrix, config, block)
    rounded = quantize(rows, parameters, 0)
    if steps is not None:
        whole = rounded.reshape(outputs, -1)
        whole[:, :inputs] = moved(whole[:, :inputs], steps, parameters)
    blocks = len(rows) // max(outputs, 1)
    # MatMulNBits multiplies by the integers with their middle added and takes the middle's share off again. What
    # rounding in float32 leaves of that must not count where a block is zero.
    scale = np.where(rounded.any(axis=1), parameters.scale, np.float32(0))
    values = (rounded + float(1 << (bits - 1))).astype(np.uint8).reshape(outputs, blocks, block)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return QuantizedWeight(
        np.ascontiguousarray(values), scale.reshape(outputs, blocks), np.full((), 1 << (bits - 1), np.uint8)
    )


def block_steps(
    matrix: FloatArray, config: TensorConfig, block: int, moment: SecondMoment, smoothing: FloatArray | None
) -> Steps:
    """How far the integers of a matrix in blocks, rounded by the second moment of its input, are from the nearest ones.

    Args:
        matrix: float32 [out_features, in_features], smoothed.
        config: as for `quantize_blocks`.
        block: as there.
        moment: of the input before smoothing.
        smoothing: scale [in_features] that the input is divided by; None: it is not.
    """
    outputs, inputs = matrix.shape
    rows, parameters = _in_blocks(matrix, config, block)
    nearest = quantize(rows, parameters, 0).reshape(outputs, -1)[:, :inputs]
    scale, zero_point = (
        np.repeat(each.reshape(outputs, -1), block, axis=1)[:, :inputs]
        for each in (parameters.scale, parameters.zero_point)
    )
    whole = QuantizationParameters(scale, zero_point, parameters.quant_min, parameters.quant_max)
    rounded = quantize_by_second_moment(matrix, whole, moment, smoothing=smoothing)
    return pack_steps((rounded - nearest).astype(np.int16))


def _in_blocks(matrix: FloatArray, config: TensorConfig, block: int) -> tuple[FloatArray, QuantizationParameters]:
    """Blocks as rows, zeros behind the last of a channel, and a scale for each."""
    outputs, inputs = matrix.shape
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = matrix
    rows = padded.reshape(outputs * blocks, block)
    return rows, weight_parameters(rows, replace(config, granularity="per_channel"), axis=0, framework=FRAMEWORK)
