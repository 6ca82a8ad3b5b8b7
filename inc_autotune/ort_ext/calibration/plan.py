"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig

FRAMEWORK = "onnxruntime"
"""Whose scale formulas are used, and the name in recipes."""


@dataclass(frozen=True, eq=False)
class OperatorCalibration:
    """What calibration found for one operator.

    Args:
        range: smallest and largest value of its input, after smoothing; None unless the operator is static.
        smoothing: scale [in_features] its input is divided by; None where it is not smoothed.
    """

    range: tuple[float, float] | None = None
    smoothing: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Everything that decides a quantized model, beside the fp32 model.

    Args:
        configs: by name of the operators that leave fp32.
        calibrations: by operator name. An operator without a configuration may be smoothed too.
        output_ranges: by name of the tensor, for outputs of operators and of what follows them in integers.
        reduced: names of the operators whose weights get one bit less.
        folding: whether smoothing scales are folded into the operators before, where that is exact.
    """

    configs: Mapping[str, OpConfig]
    calibrations: Mapping[str, OperatorCalibration]
    output_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reduced: frozenset[str] = frozenset()
    folding: bool = True

    @property
    def static(self) -> tuple[str, ...]:
        """Names of the operators whose inputs have fixed ranges, so that their outputs may be quantized too."""
        return tuple(name for name, config in self.configs.items() if config.approach == "static")
