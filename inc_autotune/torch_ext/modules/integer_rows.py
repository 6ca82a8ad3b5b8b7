"""Integers of a matrix as deployable forms store them: a byte each, or those of 2, 3 and 4 bits without a gap.

TorchScript programs call `integers_of` and `dequantized`, so these read no names of the module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inc_autotune.core.quantization import integer_type

ZERO_POINT_PARTS = 16
"""Zero points of up to 4 bits are multiples of a sixteenth, from -8 to below 8: a byte holds them, and bfloat16 their
exact distance to an integer. Whole ones are off by up to half a step, and with them all weights of a group alike."""


def stored(integers: Tensor, bits: int) -> Tensor:
    """Integers [rows, columns] as int8 of the same shape, or [rows, columns * bits / 8] where they have 2 to 4 bits.

    Of 4 bits, the first half of a row lies in the lower halves of its bytes: so both halves are read one after another.
    Quarters of a row lie so for 2 bits. Of 3 bits, the lower two are followed by the highest ones, by eighths of a row.

    Args:
        integers: within the signed ones of so many bits.
        bits: 2, 3, 4 or 8. Columns fill whole bytes: they are a multiple of 4, 8, 2 or 1.
    """
    if bits == 4:
        low, high = integers.to(torch.int8).chunk(2, 1)
        return (low & 15) | (high << 4)
    if bits == 3:
        return torch.cat((_side_by_side(integers & 3, 2), _side_by_side((integers >> 2) & 1, 1)), 1)
    return _side_by_side(integers & 3, 2) if bits == 2 else integers.to(torch.int8)


def _side_by_side(values: Tensor, bits: int) -> Tensor:
    """Unsigned values of 1 or 2 bits, parts of a row from the lowest bits of its bytes upwards, int8."""
    parts = values.to(torch.int8).chunk(8 // bits, 1)
    packed = torch.zeros_like(parts[0])
    for place, part in enumerate(parts):
        packed |= part << (bits * place)
    return packed


def stored_weight(
    weight: Tensor, weight_scale: Tensor, weight_zero_point: Tensor, dtype: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight as products and tables of weights alone store it: signed integers, scales, zero points.

    Args:
        weight: integers [rows, columns], columns as `stored` wants them.
        weight_scale: [rows, groups].
        weight_zero_point: the same shape; of 4 bits and less, multiples of a sixteenth.
        dtype: of the integers.

    Returns:
        What `stored` returns, scales as bfloat16, and zero points as `dequantized` takes them; None if all are 0.
    """
    kind = integer_type(dtype)
    shift = 0 if kind.signed else 1 << (kind.bits - 1)
    parts = ZERO_POINT_PARTS if kind.bits <= 4 else 1
    zero_points = ((weight_zero_point.float() - shift) * parts).round_()
    integers = stored(weight.to(torch.int16) - shift, kind.bits)
    return integers, weight_scale.bfloat16(), zero_points.to(torch.int8) if bool(zero_points.any()) else None


def integers_of(rows: Tensor, bits: int) -> Tensor:
    """Inverse of `stored`, int8 [rows, columns]."""
    if bits == 4:
        return torch.cat(((rows << 4) >> 4, rows >> 4), -1)
    if bits == 2:
        return torch.cat(((rows << 6) >> 6, (rows << 4) >> 6, (rows << 2) >> 6, rows >> 6), -1)
    if bits == 3:
        size = rows.shape[-1] // 3
        low, high = rows.narrow(-1, 0, 2 * size), rows.narrow(-1, 2 * size, size)
        lower = torch.cat((low & 3, (low >> 2) & 3, (low >> 4) & 3, (low >> 6) & 3), -1)
        ones = (high & 1, (high >> 1) & 1, (high >> 2) & 1, (high >> 3) & 1)
        more = ((high >> 4) & 1, (high >> 5) & 1, (high >> 6) & 1, (high >> 7) & 1)
        return lower - (torch.cat((torch.cat(ones, -1), torch.cat(more, -1)), -1) << 2)
    return rows


def dequantized(rows: Tensor, bits: int, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The numbers of some rows.

    Args:
        rows: of what `stored` returns.
        bits: 2, 3, 4 or 8.
        scale: [rows, groups], any float dtype.
        zero_point: int8, like the scale, of 4 bits and less in sixteenths (`ZERO_POINT_PARTS`); None: all are 0.
        dtype: of the result [rows, columns].
    """
    values = integers_of(rows, bits).to(dtype)
    columns = values.shape[1]
    values = values.reshape(scale.shape[0], scale.shape[1], columns // scale.shape[1])
    if zero_point is not None:
        points = zero_point.to(dtype) / 16 if bits <= 4 else zero_point.to(dtype)
        values = values.sub_(points.unsqueeze(-1))
    return values.mul_(scale.to(dtype).unsqueeze(-1)).reshape(scale.shape[0], columns)
