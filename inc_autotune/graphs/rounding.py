"""Weights on the grid of integers that are not the nearest ones, known before a model is written."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import (
    QuantizationParameters,
    SecondMoment,
    pack_steps,
    quantize,
    quantize_by_second_moment,
    unpack_steps,
    weight_parameters,
)

Steps = npt.NDArray[np.uint8]
"""How far integers are from the nearest ones, packed by `pack_steps`; output channels come first."""


def weight_steps(
    weight: FloatArray,
    config: TensorConfig,
    moment: SecondMoment,
    *,
    smoothing: FloatArray | None,
    framework: str,
    reduce_range: bool = False,
) -> Steps:
    """The steps of a weight that is rounded by the second moment of what it is multiplied with.

    Args:
        weight: float32 [out_channels, ...], smoothed, its other elements in the order of the moment's columns.
        config: how it is quantized.
        moment: of the operator's input before smoothing.
        smoothing: scale [in_features] that the input is divided by; None: it is not.
        framework: whose formulas give the scales.
        reduce_range: one bit less.
    """
    parameters = weight_parameters(weight, config, axis=0, framework=framework, reduce_range=reduce_range)
    rows = weight.reshape(len(weight), -1)
    nearest = quantize(rows, parameters, 0 if parameters.scale.ndim else None)
    rounded = quantize_by_second_moment(rows, parameters, moment, smoothing=smoothing)
    return pack_steps((rounded - nearest).astype(np.int16))


def moved(integers: Array, steps: Steps | None, parameters: QuantizationParameters, axis: int = 0) -> Array:
    """Nearest integers after their steps.

    Args:
        integers: integer-valued floats of any shape.
        steps: None: there are none.
        parameters: the range of the integers.
        axis: of the output channels.

    Raises:
        RecipeError: the steps are of another weight.
    """
    if steps is None:
        return integers
    rows = np.moveaxis(integers, axis, 0)
    stepped = np.moveaxis(rows + unpack_steps(steps, rows.shape), 0, axis)
    limits = (parameters.quant_min, parameters.quant_max)
    return np.clip(stepped, *limits).astype(integers.dtype, copy=False)


class StepsCache:
    """The last steps of each operator: trials of a run mostly differ elsewhere."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, Steps]] = {}

    def get(self, operator: str, version: Hashable, make: Callable[[], Steps]) -> Steps:
        """The steps of an operator's weight.

        Args:
            operator: its name.
            version: all that the steps depend on.
            make: computes them.
        """
        if operator not in self._kept or self._kept[operator][0] != version:
            self._kept[operator] = (version, make())
        return self._kept[operator][1]
