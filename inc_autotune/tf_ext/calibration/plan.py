"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from inc_autotune.core.adaptor import Half
from inc_autotune.core.op_config import FP32_TENSOR
from inc_autotune.graphs import plan
from inc_autotune.tf_ext.target import KERNEL_FORM, GraphChoices

FRAMEWORK = "tensorflow"
"""Whose scale formulas are used, and the name in recipes."""


@dataclass(frozen=True, eq=False)
class QuantizationPlan(plan.QuantizationPlan):
    """A plan for TensorFlow. Only depthwise convolutions have an `output_range`: their kernel returns integers.

    Args:
        simulated: names of the operators that are computed in fp32 with the values that integers would have.
        choices: how the graph is written.
    """

    simulated: frozenset[str] = frozenset()
    choices: GraphChoices = field(default_factory=GraphChoices)

    def is_integer(self, name: str) -> bool:
        """Whether an operator is written as an integer operator."""
        quantized = name in self.configs and self.configs[name].is_quantized and name not in self.simulated
        return quantized and self.choices.form == KERNEL_FORM

    def is_dynamic(self, name: str) -> bool:
        """Whether an operator is written as an integer operator whose input is quantized row by row."""
        return self.is_integer(name) and self.configs[name].approach == "dynamic"

    def only_half(self, half: Half) -> QuantizationPlan:
        """The plan with quantized operators simulated, and only weights rounded, or only activations."""
        quantized = frozenset(name for name, config in self.configs.items() if config.is_quantized)
        configs = {
            name: replace(config, activation=FP32_TENSOR) if half == "weight" else replace(config, weight=FP32_TENSOR)
            for name, config in self.configs.items()
            if name in quantized
        }
        return replace(self, configs={**self.configs, **configs}, simulated=quantized)
