"""An operator with only its weight, or only its activation, rounded: which of the two does the harm?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from inc_autotune.core.adaptor import Half
from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.model.layer import become
from inc_autotune.torch_ext.modules.prepared import PreparedInteger
from inc_autotune.torch_ext.modules.registry import prepare_module


def half_quantized(
    module: nn.Module, config: OpConfig, calibration: OperatorCalibration, half: Half, reduce_range: bool
) -> nn.Module:
    """An operator that rounds only its weight or only its activation; as prepared, where it rounds only one anyway."""
    # A correction is of what both halves shift together.
    calibration = replace(calibration, input_means=None)
    prepared = prepare_module(module, config, calibration, reduce_range=reduce_range)
    if isinstance(prepared, PreparedInteger) and not config.activation.is_float:
        prepared.rounds_weight = half == "weight"  # type: ignore[assignment]
        become(prepared, HalfQuantized, type(prepared))
    return prepared


class HalfQuantized(nn.Module):
    """One half of a prepared operator, in fp32: a class that stands before that of the operator.

    Any but an Embedding, which has no activation to round. Rounded is the weight; or the input, and the output where
    the integer kernel rounds it.
    """

    rounds_weight: bool

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return cast(PreparedInteger, self).half_rounded(self.rounds_weight, *arguments, **keywords)
