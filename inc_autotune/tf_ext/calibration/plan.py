"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from inc_autotune.core.adaptor import Half
from inc_autotune.core.op_config import FP32_TENSOR
from inc_autotune.graphs import plan

FRAMEWORK = "tensorflow"
"""Whose scale formulas are used, and the name in recipes."""


KERNELS, QDQ = "kernels", "qdq"
"""Forms of a graph: with the integer operators of stock TensorFlow, or with float operators between quantized ones."""


@dataclass(frozen=True)
class GraphChoices:
    """How quantized graphs are written, beside types and ranges.

    Attributes:
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
class QuantizationPlan(plan.QuantizationPlan):
    """A plan for TensorFlow. Only depthwise convolutions have an `output_range`: their kernel returns integers.

    Args:
        simulated: names of the operators that are computed in fp32 with the values that integers would have.
        choices: how it is written.
    """

    simulated: frozenset[str] = frozenset()
    choices: GraphChoices = field(default_factory=GraphChoices)

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
