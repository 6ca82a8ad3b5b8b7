"""Quantization grids of activations: integer type, and the real values that its integers stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import QuantizationParameters, quantization_parameters
from inc_autotune.tf_ext.calibration import FRAMEWORK, integer_dtype

MIN_FIRST, SCALED = "MIN_FIRST", "SCALED"
"""TensorFlow's names for asymmetric and symmetric quantization."""

LARGEST_INT8 = 127.0

CONVOLVED = TensorConfig("int8", "sym", "per_tensor", "minmax")
"""Type of what convolutions read and return; `activation_parameters` decides whether it has a sign."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """The parameters of a `QuantizeV2`: integer type, and the real values that its integers stand for.

    Args:
        dtype: quint8 or qint8.
        mode: MIN_FIRST or SCALED.
        minimum: real value of the smallest integer.
        maximum: real value of the largest integer.
        scale: real value of one step.
        shift: the integer that stands for 0, where minimum and maximum are told to the kernel as if 0 did.
    """

    dtype: tf.DType
    mode: str
    minimum: float
    maximum: float
    scale: float
    shift: int = 0

    @property
    def is_signed(self) -> bool:
        """Whether the integers have a sign."""
        return bool(self.dtype == tf.qint8)

    def covers(self, limits: Range) -> bool:
        """Whether the grid reaches `limits` to within one step."""
        return self.minimum - self.scale <= limits[0] and limits[1] <= self.maximum + self.scale


def activation_parameters(config: TensorConfig, limits: Range) -> QuantizationParameters:
    """Scale and integers for values within `limits`.

    The limits are moved so that zero lies on the grid: then TensorFlow's two implementations of `QuantizeV2` agree, and
    zeros, such as the zeros of padding, stay zeros.
    """
    return quantization_parameters(
        np.float32(limits[0]),
        np.float32(limits[1]),
        dtype=integer_dtype(config, limits),
        scheme=config.scheme or "asym",
        framework=FRAMEWORK,
    )


def grid_of(config: TensorConfig, limits: Range) -> Grid:
    """The 8-bit grid for values within `limits`, see `activation_parameters`."""
    parameters = activation_parameters(config, limits)
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    return Grid(
        tf.qint8 if parameters.quant_min < 0 else tf.quint8,
        SCALED if config.scheme == "sym" else MIN_FIRST,
        (parameters.quant_min - zero_point) * scale,
        (parameters.quant_max - zero_point) * scale,
        scale,
    )


def shifted_grid(limits: Range) -> Grid:
    """The grid of int8 from -127 to 127 whose smallest and largest value are `limits`, which surround zero."""
    scale = (limits[1] - limits[0]) / (2 * LARGEST_INT8)
    return replace(
        grid_of(CONVOLVED, (-LARGEST_INT8 * scale, LARGEST_INT8 * scale)),
        shift=round(-LARGEST_INT8 - limits[0] / scale),
    )
