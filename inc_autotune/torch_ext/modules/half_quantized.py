"""An operator with only its weight, or only its activation, rounded: which of the two does the harm?"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from inc_autotune.core.adaptor import Half
from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.model.layer import become
from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
from inc_autotune.torch_ext.modules.registry import prepare_module


def half_quantized(
    module: nn.Module, config: OpConfig, calibration: OperatorCalibration, half: Half, reduce_range: bool
) -> nn.Module:
    """An operator that rounds only its weight or only its activation; as prepared, where it rounds only one anyway."""
    prepared = prepare_module(module, config, calibration, reduce_range=reduce_range)
    if isinstance(prepared, FakeQuantized) and not config.activation.is_float:
        prepared.rounds_weight = half == "weight"  # type: ignore[assignment]
        become(prepared, HalfQuantized, type(prepared))
    return prepared


class HalfQuantized(nn.Module):
    """One half of a prepared operator, in fp32: a class that stands before that of the operator.

    Any but an Embedding, which has no activation to round. Rounded is the weight; or the input, and the output where
    the integer kernel rounds it.
    """

    rounds_weight: bool

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        prepared = cast(FakeQuantized, self)
        compute = prepared.operator.compute
        if self.rounds_weight:
            smoothed = x if prepared.smoothing is None else x * prepared.smoothing.reciprocal()
            return compute(prepared, smoothed, prepared.fake_weight(), prepared.bias, *arguments, **keywords)
        y = compute(prepared, prepared.fake_input(x), prepared.smoothed_weight(), prepared.bias, *arguments, **keywords)
        return prepared.fake_output(y)
