"""The weight of a prepared operator on the grid of integers that are not the nearest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inc_autotune.core.quantization import (
    QuantizationParameters,
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
        weight = dequantize(integers_by_moment([prepared], moment)[0], grid, axis)
    elif steps is not None:
        integers = quantize(weight, grid, axis)
        integers += torch.from_numpy(unpack_steps(steps, tuple(integers.shape)))
        weight = dequantize(integers.clamp_(prepared.weight_minimum, prepared.weight_maximum), grid, axis)
    prepared.take_weight(prepared.weight_from_rows(weight))


@torch.no_grad()
def integers_by_moment(prepared: Sequence[FakeQuantized], moment: SecondMoment) -> list[Tensor]:
    """The integers that a second moment gives the weights of operators: float32, arranged as `weight_rows`.

    Args:
        prepared: have their smoothing scale and the grid of their weight. Several are linear, read one input and have
            the same integers: their outputs are rounded as those of one operator, which takes less time.
        moment: second moment of the input.
    """
    matrices, grids = zip(*map(_matrix_and_grid, prepared), strict=True)
    scale, zero_point = grids[0].scale, grids[0].zero_point
    if len(prepared) > 1:
        scale, zero_point = (
            torch.cat([_for_each_row(each, len(matrix)) for each, matrix in zip(values, matrices, strict=True)])
            for values in zip(*((grid.scale, grid.zero_point) for grid in grids), strict=True)
        )
    grid = replace(grids[0], scale=scale, zero_point=zero_point)
    whole = torch.cat(matrices) if len(prepared) > 1 else matrices[0]
    found = quantize_by_second_moment(whole.numpy(), grid, moment, smoothing=prepared[0].smoothing)
    parts = torch.split(torch.from_numpy(found), [len(matrix) for matrix in matrices])
    return [_arranged(each, part) for each, part in zip(prepared, parts, strict=True)]


def _matrix_and_grid(prepared: FakeQuantized) -> tuple[Tensor, QuantizationParameters]:
    """The smoothed weight as [outputs, columns], and its grid beside that."""
    smoothed, grid = prepared.smoothed_weight(), prepared.weight_parameters()
    if prepared.group_size is None:
        weight = prepared.weight_rows(smoothed)
        return (weight.t() if prepared.weight_output_axis == 1 else weight.flatten(1)), grid
    matrix = prepared.weight_matrix(smoothed)
    scale, zero_point = (
        beside_columns(each, len(matrix), prepared.group_size) for each in (grid.scale, grid.zero_point)
    )
    return matrix, replace(grid, scale=scale, zero_point=zero_point)


def _for_each_row(values: Tensor, rows: int) -> Tensor:
    """One value, or one for each row, as [rows, 1]; [rows, columns] as they are."""
    return values if values.dim() == 2 else values.expand(rows).unsqueeze(1)


def _arranged(prepared: FakeQuantized, matrix: Tensor) -> Tensor:
    """Inverse of what `_matrix_and_grid` does to the order of weights."""
    if prepared.weight_output_axis == 1:
        return matrix.t()
    return matrix.reshape(prepared.weight_rows(prepared.weight).shape)


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
