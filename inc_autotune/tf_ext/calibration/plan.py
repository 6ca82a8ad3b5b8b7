"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from inc_autotune.core.adaptor import Half
from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig

FRAMEWORK = "tensorflow"
"""Whose scale formulas are used, and the name in recipes."""


@dataclass(frozen=True, eq=False)
class OperatorCalibration:
    """What calibration found for one operator.

    Args:
        range: smallest and largest value of its input, after smoothing; None where it is not quantized.
        smoothing: scale [inputs] its input is divided by; None where it is not smoothed.
        output_range: smallest and largest value of its output; of depthwise convolutions only, whose kernel has no
            other way to return a result.
        reduce_range: whether its weight has 7 bits, written as an integer operator or simulated as one.
    """

    range: tuple[float, float] | None = None
    smoothing: FloatArray | None = None
    output_range: tuple[float, float] | None = None
    reduce_range: bool = False


KERNELS, QDQ = "kernels", "qdq"
"""Forms of a graph: with the integer operators of stock TensorFlow, or with float operators between quantized ones."""


@dataclass(frozen=True)
class GraphChoices:
    """How quantized graphs are written, beside types and ranges.

    Args:
        form: KERNELS, or QDQ for runtimes that make integer operators of such a graph by themselves.
        folding: whether smoothing scales are folded into the operators before, where that is exact.
        propagate_max_pooling: whether a max pooling between integer convolutions stays in integers.
        propagate_concat: whether all inputs of a concatenation between integer convolutions share one scale, so that
            it stays in integers.
        fuse_residual: whether a convolution computes the sum behind it too, in integers.
    """

    form: str = KERNELS
    folding: bool = True
    propagate_max_pooling: bool = True
    propagate_concat: bool = True
    fuse_residual: bool = True


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Everything that decides a quantized model, beside the fp32 model.

    Args:
        configs: by name of the operators that leave fp32.
        calibrations: by operator name. An operator without a configuration may be smoothed too.
        simulated: names of the operators that are computed in fp32 with the values that integers would have.
        choices: how it is written.
    """

    configs: Mapping[str, OpConfig]
    calibrations: Mapping[str, OperatorCalibration]
    simulated: frozenset[str] = frozenset()
    choices: GraphChoices = field(default_factory=GraphChoices)

    def calibration(self, name: str) -> OperatorCalibration:
        """Of an operator; nothing where there is nothing."""
        return self.calibrations.get(name, OperatorCalibration())

    def is_integer(self, name: str) -> bool:
        """Whether an operator is written as an integer operator."""
        quantized = name in self.configs and self.configs[name].is_quantized and name not in self.simulated
        return quantized and self.choices.form == KERNELS

    def only_half(self, half: Half) -> QuantizationPlan:
        """The same where quantized operators are simulated and round only their weights, or only their activations."""
        quantized = frozenset(name for name, config in self.configs.items() if config.is_quantized)
        configs = {
            name: replace(config, activation=FP32_TENSOR) if half == "weight" else replace(config, weight=FP32_TENSOR)
            for name, config in self.configs.items()
            if name in quantized
        }
        return replace(self, configs={**self.configs, **configs}, simulated=quantized)
