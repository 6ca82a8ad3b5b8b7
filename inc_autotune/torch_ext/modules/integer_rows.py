"""Integers of a matrix as deployable forms store them: a byte each, or two of 4 bits in a byte.

TorchScript programs call `integers_of` and `dequantized`, so these read no names of the module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inc_autotune.core.quantization import integer_type

ZERO_POINT_PARTS = 16
"""Zero points of 4 bits are multiples of a sixteenth, from -8 to below 8: a byte holds them, and bfloat16 their exact
distance to an integer. Whole ones are off by up to half a step, and with them all weights of a group to one side."""


def stored(integers: Tensor, bits: int) -> Tensor:
    """Integers [rows, columns] as int8 of the same shape, or [rows, columns / 2] where they have 4 bits.

    Of 4 bits, the first half of a row lies in the lower halves of its bytes: so both halves are read one after another.

    Args:
        integers: from -8 to 7, or from -128 to 127.
        bits: 4 or 8. With 4, columns are even.
    """
    if bits != 4:
        return integers.to(torch.int8)
    low, high = integers.to(torch.int8).chunk(2, 1)
    return (low & 15) | (high << 4)


def stored_weight(
    weight: Tensor, weight_scale: Tensor, weight_zero_point: Tensor, dtype: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight as products and tables of weights alone store it: signed integers, scales, zero points.

    Args:
        weight: integers [rows, columns]; of 4 bits, columns are even.
        weight_scale: [rows, groups].
        weight_zero_point: the same shape; of 4 bits, multiples of a sixteenth.
        dtype: of the integers.

    Returns:
        What `stored` returns, scales as bfloat16, and zero points as `dequantized` takes them; None if all are 0.
    """
    kind = integer_type(dtype)
    shift = 0 if kind.signed else 1 << (kind.bits - 1)
    parts = ZERO_POINT_PARTS if kind.bits == 4 else 1
    zero_points = ((weight_zero_point.float() - shift) * parts).round_()
    integers = stored(weight.to(torch.int16) - shift, kind.bits)
    return integers, weight_scale.bfloat16(), zero_points.to(torch.int8) if bool(zero_points.any()) else None


def integers_of(rows: Tensor, bits: int) -> Tensor:
    """Inverse of `stored`, int8 [rows, columns]."""
    if bits != 4:
        return rows
    return torch.cat(((rows << 4) >> 4, rows >> 4), -1)


def dequantized(rows: Tensor, bits: int, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The numbers of some rows.

    Args:
        rows: of what `stored` returns.
        bits: 4 or 8.
        scale: [rows, groups], any float dtype.
        zero_point: int8, like the scale, of 4 bits in sixteenths (`ZERO_POINT_PARTS`); None: all are 0.
        dtype: of the result [rows, columns].
    """
    values = integers_of(rows, bits).to(dtype)
    columns = values.shape[1]
    values = values.reshape(scale.shape[0], scale.shape[1], columns // scale.shape[1])
    if zero_point is not None:
        points = zero_point.to(dtype) / 16 if bits == 4 else zero_point.to(dtype)
        values = values.sub_(points.unsqueeze(-1))
    return values.mul_(scale.to(dtype).unsqueeze(-1)).reshape(scale.shape[0], columns)
