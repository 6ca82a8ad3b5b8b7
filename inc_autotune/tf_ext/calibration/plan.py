"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from inc_autotune.core.adaptor import Half
from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig
from inc_autotune.tf_ext.target.choices import KERNEL_FORM, GraphChoices

FRAMEWORK = "tensorflow"
"""Whose scale formulas are used, and the name in recipes."""


@dataclass(frozen=True, eq=False)
class OperatorCalibration:
    """What calibration found for one operator.

    Args:
        range: smallest and largest value of the operator's input, after smoothing; None if the input is not quantized.
        smoothing: scale [inputs] that the input is divided by; None without smoothing.
        output_range: smallest and largest value of the output of a depthwise convolution, whose kernel always returns
            integers; None for all other operators.
        reduce_range: whether the weight has 7 bits, in an integer operator and in a simulated one.
    """

    range: tuple[float, float] | None = None
    smoothing: FloatArray | None = None
    output_range: tuple[float, float] | None = None
    reduce_range: bool = False


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Everything that decides a quantized model, apart from the fp32 model.

    Args:
        configs: configurations of the operators that leave fp32, by operator name.
        calibrations: by operator name. An operator without a configuration may be smoothed too.
        simulated: names of the operators that are computed in fp32 with the values that integers would have.
        choices: how the graph is written.
    """

    configs: Mapping[str, OpConfig]
    calibrations: Mapping[str, OperatorCalibration]
    simulated: frozenset[str] = frozenset()
    choices: GraphChoices = field(default_factory=GraphChoices)

    def calibration(self, name: str) -> OperatorCalibration:
        """The calibration of an operator; an empty one if the plan has none."""
        return self.calibrations.get(name, OperatorCalibration())

    def is_integer(self, name: str) -> bool:
        """Whether an operator is written as an integer operator."""
        quantized = name in self.configs and self.configs[name].is_quantized and name not in self.simulated
        return quantized and self.choices.form == KERNEL_FORM

    def only_half(self, half: Half) -> QuantizationPlan:
        """The plan with quantized operators simulated, and only weights rounded, or only activations."""
        quantized = frozenset(name for name, config in self.configs.items() if config.is_quantized)
        configs = {
            name: replace(config, activation=FP32_TENSOR) if half == "weight" else replace(config, weight=FP32_TENSOR)
            for name, config in self.configs.items()
            if name in quantized
        }
        return replace(self, configs={**self.configs, **configs}, simulated=quantized)
