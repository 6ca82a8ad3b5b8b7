"""What decides a quantized model, in numbers, whatever runtime it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import InputMeans
from inc_autotune.graphs.rounding import Steps


@dataclass(frozen=True, eq=False)
class OperatorCalibration:
    """What calibration found for one operator.

    Args:
        range: smallest and largest value of its input, after smoothing; None unless the operator is static.
        smoothing: scale [in_features] its input is divided by; None where it is not smoothed.
        output_range: smallest and largest value of its output, where the operator itself needs it.
        reduce_range: whether its weight gets one bit less.
        input_means: of its input, after smoothing, where the bias is corrected; None: it is not.
        steps: how far the integers of its weight are from the nearest ones; None: they are the nearest.
        weight_framework: whose formulas give the scales of its weight; None: those of the runtime.
    """

    range: tuple[float, float] | None = None
    smoothing: FloatArray | None = None
    output_range: tuple[float, float] | None = None
    reduce_range: bool = False
    input_means: InputMeans | None = None
    steps: Steps | None = None
    weight_framework: str | None = None


NOTHING = OperatorCalibration()
"""Of an operator that stays as it is."""


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Everything that decides a quantized model, beside the fp32 model; each runtime adds how it writes one.

    Args:
        configs: by name of the operators that leave fp32.
        calibrations: by operator name. An operator without a configuration may be smoothed too.
    """

    configs: Mapping[str, OpConfig]
    calibrations: Mapping[str, OperatorCalibration]

    def calibration(self, name: str) -> OperatorCalibration:
        """Of an operator; nothing where there is nothing."""
        return self.calibrations.get(name, NOTHING)

    @property
    def scales(self) -> dict[str, FloatArray]:
        """Smoothing scales by name of the operators that are smoothed."""
        return {name: each.smoothing for name, each in self.calibrations.items() if each.smoothing is not None}

    def corrects_weight(self, name: str) -> bool:
        """Whether an operator's integer weight gets the mean and the norm of the float one.

        One that is rounded by a second moment has its own for a reason.
        """
        config = self.configs.get(name)
        return config is not None and "weight_correction" in config.corrections and config.rounding == "nearest"

    @property
    def reduced(self) -> frozenset[str]:
        """Names of the operators whose weights get one bit less."""
        return frozenset(name for name, each in self.calibrations.items() if each.reduce_range)
