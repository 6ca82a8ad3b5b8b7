"""Functions of quint8 tensors whose results are rounded to the grid of their reader, by one kernel each."""

from __future__ import annotations

import torch
from torch import Tensor

from inc_autotune.torch_ext.modules.deferred_value import Grid


def rounded_sum(one: Tensor, other: Tensor, rectified: bool, grid: Grid) -> Tensor:
    """The sum of two tensors, or what a ReLU makes of it."""
    add = torch.ops.quantized.add_relu if rectified else torch.ops.quantized.add
    result: Tensor = add(one, other, *grid)
    return result


def rounded_hardswish(x: Tensor, grid: Grid) -> Tensor:
    """What `F.hardswish` computes of the float32 values."""
    result: Tensor = torch.ops.quantized.hardswish(x, *grid)
    return result


def rounded_leaky_relu(x: Tensor, grid: Grid, negative_slope: float = 0.01) -> Tensor:
    """What `F.leaky_relu` computes of the float32 values."""
    result: Tensor = torch.ops.quantized.leaky_relu(x, negative_slope, False, *grid)
    return result
