"""A complete description of one quantized model, in numbers: what a candidate is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inc_autotune.graphs import plan

FRAMEWORK = "onnxruntime"
"""Whose scale formulas are used, and the name in recipes."""


@dataclass(frozen=True, eq=False)
class QuantizationPlan(plan.QuantizationPlan):
    """A plan for ONNX Runtime.

    Args:
        output_ranges: by name of the tensor, for outputs of operators and of what follows them in integers.
        folding: whether smoothing scales are folded into the operators before, where that is exact.
    """

    output_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    folding: bool = True

    @property
    def static(self) -> tuple[str, ...]:
        """Names of the operators whose inputs have fixed ranges, so that their outputs may be quantized too."""
        return tuple(name for name, config in self.configs.items() if config.approach == "static")
