"""The product of float rows and an integer weight, written so that TorchScript can compile it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.modules.integer_rows import dequantized

BLOCK_ELEMENTS = 1 << 20
"""Of a weight that are dequantized at a time: what is larger goes back to the system whenever it is freed."""


def weight_only_product(
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    kernel_weight: Tensor | None,
    kernel_scale: Tensor | None,
    bits: int,
    most_rows: int,
    wide: torch.dtype,
    block: int,
) -> Tensor:
    """[rows, out_features], bfloat16 or float32.

    Args:
        rows: float [rows, in_features].
        weight: as `integer_rows.stored` returns it, [out_features, ...].
        scale: bfloat16 [out_features, groups].
        zero_point: int8, as `integer_rows.dequantized` takes it; None: all are 0.
        kernel_weight: in the layout of the 4-bit kernel; None: there is none, or the integers have 8 bits.
        kernel_scale: in the form that the kernel reads; None: there is no kernel for the weight.
        bits: 2, 3, 4 or 8.
        most_rows: up to so many the kernel is faster.
        wide: dtype to dequantize the weight to for more of them.
        block: rows of the weight to dequantize at a time.
    """
    if kernel_scale is not None and rows.shape[0] <= most_rows:
        if kernel_weight is None:
            y: Tensor = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), weight, kernel_scale)
        else:
            group = rows.shape[1] // scale.shape[1]
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.to(torch.bfloat16), kernel_weight, group, kernel_scale)
        return y
    parts: list[Tensor] = []
    wide_rows = rows.to(wide)
    for start in range(0, weight.shape[0], block):
        part = slice(start, start + block)
        added = None if zero_point is None else zero_point[part]
        parts.append(F.linear(wide_rows, dequantized(weight[part], bits, scale[part], added, wide)))
    return torch.cat(parts, 1)
