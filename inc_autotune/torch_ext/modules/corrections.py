"""Corrections of a prepared operator: a weight with the fp32 one's mean and norm, and a bias for its mean output."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.quantization import (
    InputMeans,
    QuantizationParameters,
    dequantize,
    output_shift,
    quantize,
    restore_moments,
)

_BLOCK_ELEMENTS = 1 << 20
"""Of a weight that are worked on at a time."""

if TYPE_CHECKING:
    from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized


@torch.no_grad()
def restore_weight(prepared: FakeQuantized, parameters: QuantizationParameters) -> QuantizationParameters:
    """Give an operator a weight of its own, on a grid where it has the mean and the norm of the fp32 one.

    Args:
        prepared: has its smoothing scale.
        parameters: the grid that its weight would be rounded to.

    Returns:
        The grid of the new weight.
    """
    rows = prepared.weight_rows(prepared.smoothed_weight())
    axis = prepared.weight_output_axis if parameters.scale.dim() else None
    integers = quantize(rows, parameters, axis)
    integers, parameters = restore_moments(rows, integers, parameters, prepared.weight_output_axis)
    prepared.take_weight(prepared.weight_from_rows(dequantize(integers, parameters, axis)))
    return parameters


def given_back(prepared: FakeQuantized) -> Tensor | None:
    """The product of the shift of an operator's input with its weight as it is now, [out_channels]; None: no shift."""
    if prepared.input_shift is None:
        return None
    weight = prepared.weight.float()
    return torch.mv(weight if prepared.operator.input_axis == 1 else weight.t(), prepared.input_shift)


@torch.no_grad()
def bias_shift(prepared: FakeQuantized, weight: Tensor, means: InputMeans) -> Tensor:
    """What rounding takes from the mean of each output channel, [out_channels].

    Args:
        prepared: complete but for its `bias_shift`.
        weight: the smoothed fp32 weight.
        means: of the smoothed input.

    Raises:
        ArgumentError: the means are of another number of channels.
    """
    groups, taps = int(getattr(prepared, "groups", 1)), 1
    rows, integers = prepared.weight_rows(weight), prepared.integer_weight()
    if prepared.group_size is not None:
        rows = prepared.weight_matrix(weight)
    elif prepared.operator_name == "Conv1D":
        rows, integers = rows.t(), integers.t()
    if prepared.operator_name.startswith("ConvTranspose"):
        # Every output reads through one tap in so many.
        strides: Any = prepared.stride
        taps = math.prod(strides)
    channels = rows.shape[1] * groups
    if means.exact.shape != (channels,) or means.rounded.shape != (channels,):
        raise ArgumentError(
            f"calibration.input_means of shape {list(means.exact.shape)}: does not fit {prepared.operator_name}.\n"
            f"Allowed: {channels} numbers."
        )
    means = InputMeans(means.exact.to(weight.device), means.rounded.to(weight.device))
    scales = len(integers) // len(rows)  # of each channel: one, or one for each of its groups
    # In blocks of channels, so that no temporary is as large as a large weight; those with groups are small.
    step = len(rows) if groups > 1 else max(_BLOCK_ELEMENTS // max(rows[0].numel(), 1), 1)
    shifts: list[Tensor] = []
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        part = slice(start * scales, (start + step) * scales)
        parameters = prepared.weight_parameters(part if prepared.weight_scale.dim() else None)
        rounded = dequantize(integers[part].float(), parameters, 0 if prepared.weight_scale.dim() else None)
        shifts.append(output_shift(rows[block], rounded.reshape(rows[block].shape), means, groups))
    return torch.cat(shifts) / taps
