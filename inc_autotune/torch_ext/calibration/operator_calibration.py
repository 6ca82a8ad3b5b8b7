"""What calibration says about one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from inc_autotune.core.quantization import InputMeans, SecondMoment


@dataclass(frozen=True, eq=False)
class OperatorCalibration:
    """Ranges and smoothing of one operator.

    Args:
        input_minimum: smallest input value after shift and smoothing; None where the range is found at run time
            (dynamic) or the activation stays float (weight_only).
        input_maximum: largest input value after smoothing; None as above.
        smoothing: SmoothQuant scale, float32 [in_features], positive: the input is divided by it and the weight's
            input channels are multiplied by it; None: not smoothed.
        shift: taken from the input's channels before they are divided, float32 [in_features], only beside `smoothing`;
            the bias gives it back. None: nothing is.
        output_minimum: smallest output value, needed by the int8 convolutions, whose kernels write uint8.
        output_maximum: largest output value.
        hands_on_integers: whether the output goes to other convolutions as integers.
        rounds_sums: whether a sum that it reads is given to the sum's other readers in the integers that it reads.
        input_means: of the smoothed input, where the bias is corrected; None: it is not.
        moments: second moments of what its weights are multiplied with, before smoothing, by the weights' names, where
            weights are rounded by them.
        steps: instead of them, how far the rounded integers are from the nearest ones, packed by `pack_steps`, of
            several weights one after another by name.
        weight_scale: of the weight's grid, as training left it; of several weights one after another by name; None:
            that of the weight.
        weight_zero_point: likewise.
        channels_last: whether the output may lie so, whatever the strides that the fp32 operator would give it.
    """

    input_minimum: float | None = None
    input_maximum: float | None = None
    smoothing: Tensor | None = None
    output_minimum: float | None = None
    output_maximum: float | None = None
    moments: Mapping[str, SecondMoment] = field(default_factory=dict)
    steps: npt.NDArray[np.uint8] | None = None
    channels_last: bool = False
    hands_on_integers: bool = False
    rounds_sums: bool = False
    input_means: InputMeans | None = None
    weight_scale: Tensor | None = None
    weight_zero_point: Tensor | None = None
    shift: Tensor | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes the integer form of an operator under one configuration; first smoothing and shift.

        All that was calibrated: a dynamic operator has no range, but its smoothing depends on the samples too.
        """
        means = self.input_means
        return (
            _bytes(self.smoothing),
            _bytes(self.shift),
            self.input_minimum,
            self.input_maximum,
            self.output_minimum,
            self.output_maximum,
            self.hands_on_integers,
            self.rounds_sums,
            None if means is None else (_bytes(means.exact), _bytes(means.rounded)),
        )


def _bytes(values: Tensor | None) -> bytes | None:
    return None if values is None else values.numpy().tobytes()
