"""The integers of an activation and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import QuantizationParameters, quantization_parameters
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK

MIN_FIRST, SCALED = "MIN_FIRST", "SCALED"
"""TensorFlow's names for asymmetric and symmetric quantization."""

CONVOLVED = TensorConfig("int8", "sym", "per_tensor", "minmax")
"""What convolutions read and make, see `activation_parameters` for its sign."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor and what they mean: all that `QuantizeV2` has to be told.

    Args:
        dtype: quint8 or qint8.
        mode: MIN_FIRST or SCALED.
        minimum: real value of the smallest integer.
        maximum: real value of the largest integer.
        scale: real value of one step.
    """

    dtype: tf.DType
    mode: str
    minimum: float
    maximum: float
    scale: float

    @property
    def is_signed(self) -> bool:
        """Whether the integers have a sign."""
        return bool(self.dtype == tf.qint8)

    def covers(self, limits: Range) -> bool:
        """Whether it ends no more than a step before `limits`."""
        return self.minimum - self.scale <= limits[0] and limits[1] <= self.maximum + self.scale


def activation_parameters(config: TensorConfig, limits: Range) -> QuantizationParameters:
    """Scale and integers for values within `limits`.

    The limits are moved so that zero lies on the grid: then TensorFlow's two implementations of `QuantizeV2` agree, and
    zeros, such as those of padding, stay zeros. A symmetric type becomes the unsigned one for a tensor without negative
    values, which halves the step, and the signed one for others, since an unsigned one without zero point has none.
    """
    dtype = config.dtype
    if config.scheme == "sym":
        dtype = f"{'u' if limits[0] >= 0 else ''}{dtype.removeprefix('u')}"
    return quantization_parameters(
        np.float32(limits[0]),
        np.float32(limits[1]),
        dtype=dtype,
        scheme=config.scheme or "asym",
        framework=FRAMEWORK,
    )


def grid_of(config: TensorConfig, limits: Range) -> Grid:
    """The grid of 8 bits for values within `limits`, see `activation_parameters`."""
    parameters = activation_parameters(config, limits)
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    return Grid(
        tf.qint8 if parameters.quant_min < 0 else tf.quint8,
        SCALED if config.scheme == "sym" else MIN_FIRST,
        (parameters.quant_min - zero_point) * scale,
        (parameters.quant_max - zero_point) * scale,
        scale,
    )
