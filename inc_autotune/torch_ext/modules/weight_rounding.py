"""The weight of a prepared operator on the grid of integers that are not the nearest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inc_autotune.core.quantization import (
    SecondMoment,
    beside_columns,
    dequantize,
    quantize,
    quantize_by_second_moment,
    unpack_steps,
)

if TYPE_CHECKING:
    from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
    from inc_autotune.torch_ext.modules.fake_recurrent import FakeQuantizedRecurrent


@torch.no_grad()
def round_weight(prepared: FakeQuantized, moment: SecondMoment | None, steps: npt.NDArray[np.uint8] | None) -> None:
    """Give an operator a weight of its own that rounding to nearest leaves as it is.

    Args:
        prepared: has its smoothing scale and the grid of its weight.
        moment: second moment of the input, by which the weight is rounded.
        steps: instead of it, how far the integers are from the nearest ones. Without either the weight stays as it is,
            for a saved model has one of its own for it.

    Raises:
        RecipeError: the steps are of another weight.
    """
    weight, grid, axis = (
        prepared.weight_rows(prepared.smoothed_weight()),
        prepared.weight_parameters(),
        prepared.weight_axis,
    )
    if moment is not None:
        weight = dequantize(integers_by_moment(prepared, moment), grid, axis)
    elif steps is not None:
        integers = quantize(weight, grid, axis)
        integers += torch.from_numpy(unpack_steps(steps, tuple(integers.shape)))
        weight = dequantize(integers.clamp_(prepared.weight_minimum, prepared.weight_maximum), grid, axis)
    prepared.take_weight(prepared.weight_from_rows(weight))


@torch.no_grad()
def integers_by_moment(prepared: FakeQuantized, moment: SecondMoment) -> Tensor:
    """The integers that a second moment gives an operator's weight: float32, arranged as `weight_rows`.

    Args:
        prepared: has its smoothing scale and the grid of its weight.
        moment: second moment of the input.
    """
    smoothed, grid = prepared.smoothed_weight(), prepared.weight_parameters()
    weight = prepared.weight_rows(smoothed)
    is_transposed = prepared.weight_output_axis == 1
    matrix = weight.t() if is_transposed else weight.flatten(1)
    if prepared.group_size is not None:
        matrix = prepared.weight_matrix(smoothed)
        scale, zero_point = (
            beside_columns(each, len(matrix), prepared.group_size) for each in (grid.scale, grid.zero_point)
        )
        grid = replace(grid, scale=scale, zero_point=zero_point)
    integers = torch.from_numpy(quantize_by_second_moment(matrix.numpy(), grid, moment, smoothing=prepared.smoothing))
    return integers.t() if is_transposed else integers.reshape(weight.shape)


@torch.no_grad()
def round_recurrent_weights(
    prepared: FakeQuantizedRecurrent, moments: Mapping[str, SecondMoment], steps: npt.NDArray[np.uint8] | None
) -> None:
    """Give a recurrent layer weights of its own that rounding to nearest leaves as they are.

    Args:
        prepared: has the grids of its weights.
        moments: second moments of what the weights are multiplied with, by their names.
        steps: instead of them, how far the integers of all weights are from the nearest ones, one weight after another
            by name. Without either the weights stay as they are.

    Raises:
        RecipeError: the steps are of other weights.
    """
    names = sorted(prepared.operator.weights(prepared))
    weights = [prepared.get_parameter(name) for name in names]
    if steps is not None:
        sizes = [weight.numel() for weight in weights]
        parts = torch.split(torch.from_numpy(unpack_steps(steps, (sum(sizes),))), sizes)
    for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
        grid, axis = prepared.weight_parameters(name), prepared.weight_axis(name)
        if name in moments:
            integers = torch.from_numpy(quantize_by_second_moment(weight.numpy(), grid, moments[name]))
        elif steps is not None:
            integers = quantize(weight, grid, axis).add_(parts[index].view_as(weight))
            integers.clamp_(prepared.weight_minimum, prepared.weight_maximum)
        else:
            continue
        own = torch.empty_like(weight).copy_(dequantize(integers, grid, axis))
        setattr(prepared, name, nn.Parameter(own, requires_grad=weight.requires_grad))
    prepared._init_flat_weights()  # type: ignore[operator]
