"""The weight of a prepared operator on the grid of integers that are not the nearest ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

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
        is_transposed = prepared.weight_output_axis == 1
        matrix, beside = weight.t() if is_transposed else weight.flatten(1), grid
        if prepared.group_size is not None:
            matrix = prepared.weight_matrix(prepared.smoothed_weight())
            scale, zero_point = (
                beside_columns(each, len(matrix), prepared.group_size) for each in (grid.scale, grid.zero_point)
            )
            beside = replace(grid, scale=scale, zero_point=zero_point)
        integers = torch.from_numpy(
            quantize_by_second_moment(matrix.numpy(), beside, moment, smoothing=prepared.smoothing)
        )
        weight = dequantize(integers.t() if is_transposed else integers.reshape(weight.shape), grid, axis)
    elif steps is not None:
        integers = quantize(weight, grid, axis)
        integers += torch.from_numpy(unpack_steps(steps, tuple(integers.shape)))
        weight = dequantize(integers.clamp_(prepared.weight_minimum, prepared.weight_maximum), grid, axis)
    prepared.take_weight(prepared.weight_from_rows(weight))
