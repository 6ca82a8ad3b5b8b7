"""Kernels that multiply float activations by integer weights, and how many rows they are worth it for."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from inc_autotune.torch_ext.target.kernels import has_bf16

logger = logging.getLogger(__name__)

KERNEL_GROUPS = (32, 64, 128, 256)
"""Weights in a group that the 4-bit kernel knows."""

_KERNEL_OUTPUTS = 16
"""The 4-bit kernel takes output channels by so many."""

_INNER_TILES = 2
"""An argument of the packing operator that the CPU has no use for."""


def most_rows(bits: int) -> int:
    """Rows up to which a kernel beats dequantizing the weight and a float product.

    The kernels compute row after row, in time with their number; a float product costs little more for 100 rows than
    for one. `benchmarks/torch/weight_only.py` prints both.
    """
    if has_bf16():
        return 32 if bits <= 4 else 8
    return 64 if bits <= 4 else 32


@cache
def has_kernel(bits: int) -> bool:
    """Whether torch has the kernel, and it computes what it should; bfloat16 in and out. Up to 4 bits it is one."""
    integers = torch.arange(32 * 32).reshape(32, 32) % 16 - 8
    x = torch.linspace(-1, 1, 64).reshape(2, 32).bfloat16()
    scale = torch.full((32, 1), 0.5).bfloat16()
    try:
        if bits <= 4:
            y = int4_product(x, pack_int4(integers), group_scales(scale, None), 32)
        else:
            y = int8_product(x, integers.to(torch.int8), scale[:, 0])
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.info("the weight-only kernel of %d bits is not used, since trying it failed: %s", bits, error)
        return False
    return torch.allclose(y.float(), x.float() @ integers.float().t() * 0.5, rtol=0.02, atol=0.2)


def fits_int4(outputs: int, inputs: int, group: int) -> bool:
    """Whether the 4-bit kernel takes a weight of this shape."""
    return group in KERNEL_GROUPS and inputs % group == 0 and outputs % _KERNEL_OUTPUTS == 0


def pack_int4(integers: Tensor) -> Tensor:
    """A weight [out_features, in_features] from -8 to 7 in the layout of the 4-bit kernel, uint8."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        (integers.to(torch.int32) + 8).contiguous(), _INNER_TILES
    )
    return packed


def group_scales(scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Scales and what zero points add, as the 4-bit kernel reads them: bfloat16 [groups, out_features, 2].

    Args:
        scale: bfloat16 [out_features, groups].
        zero_point: any dtype, like the scale; None: all are 0.
    """
    added = torch.zeros_like(scale) if zero_point is None else (zero_point.float() * -scale.float()).bfloat16()
    return torch.stack((scale, added), -1).transpose(0, 1).contiguous()


def int4_product(x: Tensor, packed: Tensor, scales: Tensor, group: int) -> Tensor:
    """[rows, out_features] of bfloat16 rows and a packed weight."""
    y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, scales)
    return y


def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """[rows, out_features] of bfloat16 rows, an int8 weight [out_features, in_features] and bfloat16 [out_features]."""
    y: Tensor = torch.ops.aten._weight_int8pack_mm(x, weight, scale)
    return y
