"""Attention with products of bfloat16: a kernel of ours, built by torch's own machinery at its first use and cached."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from ctypes import c_float, c_int, c_int64
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.target.kernels import has_bf16
from inc_autotune.torch_ext.target.native import KernelError, address, built

logger = logging.getLogger(__name__)

LEAST_PRODUCTS = 2**20
"""Multiplications of a query by a key below which torch's float32 kernel is used: there is little to win."""

LEAST_ROWS = 12
"""Queries below which it is used: a step of generation would pack all keys for one row."""

LARGEST_HEAD = 256
"""Elements of a head that the kernel's registers and caches are laid out for."""

_library: Any = torch.library.Library
_OPERATORS: Any = _library("inc_autotune", "FRAGMENT")
_OPERATORS.define(
    "bf16_attention(Tensor query, Tensor key, Tensor value, Tensor? mask, bool causal, float scale) -> Tensor",
    # Without it, Inductor would write a mask that it computes anew for every call, to have the strides of the graph.
    tags=(torch.Tag.flexible_layout,),
)


@cache
def attention_problem() -> str | None:
    """Why the kernel is not used on this machine; None where it is built and computes what it should."""
    if not has_bf16():
        return "the processor does not multiply bfloat16"
    if not torch.cpu._is_avx512_bf16_supported():
        return "the processor has no AVX512-BF16"
    try:
        _try_out()
    except KernelError as error:
        logger.info("attention in bfloat16 is not used: %s", error)
        return str(error)
    return None


class AttentionCall(NamedTuple):
    """The arguments of `F.scaled_dot_product_attention`."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def in_bf16(call: AttentionCall) -> Tensor:
    """What a call that the kernel takes comes to with products of bfloat16, see `bf16_attention`."""
    scale = 1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale
    return bf16_attention(call.query, call.key, call.value, call.attn_mask, call.is_causal, scale)


def takes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether the kernel computes attention of such tensors, whatever their number of rows."""
    tensors = (query, key, value)
    if any(each.dim() != 4 or each.dtype != torch.float32 or each.device.type != "cpu" for each in tensors):
        return False
    if any(each.is_nested or each.layout != torch.strided for each in tensors):
        return False
    if key.shape[1] == 0 or query.shape[1] % key.shape[1] or value.shape[-1] != query.shape[-1]:
        return False
    return query.shape[-1] <= LARGEST_HEAD and (mask is None or mask.dtype in (torch.bool, torch.float32))


def is_worth_it(query: Tensor, key: Tensor) -> bool:
    """Whether there is enough to compute; `benchmarks/torch/attention_kernel.py` prints both kernels' times."""
    batch, heads, rows, depth = query.shape
    return rows >= LEAST_ROWS and batch * heads * rows * key.shape[2] * depth >= LEAST_PRODUCTS


def bf16_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """`F.scaled_dot_product_attention` with products of bfloat16; sums and softmax are float32, and so is the result.

    Where the kernel is missing, or not worth it, torch's own in float32 computes it.

    Args:
        query: float32 [batch, heads, queries, depth].
        key: float32 [batch, heads of keys, keys, depth]; their number divides that of the heads.
        value: like `key`.
        mask: what `F.scaled_dot_product_attention` takes; bool or float32.
        causal: whether a query sees keys up to its own index only.
        scale: of the products.

    Returns:
        [batch, heads, queries, depth], the transposed view of a contiguous [batch, queries, heads, depth].
    """
    result: Tensor = torch.ops.inc_autotune.bf16_attention(query, key, value, mask, causal, scale)
    return result


def _shaped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    batch, heads, rows, depth = query.shape
    return query.new_empty((batch, rows, heads, depth)).transpose(1, 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    output: Tensor = _shaped(query, key, value, mask, causal, scale)
    if is_worth_it(query, key) and attention_problem() is None:
        _call(_kernel(), query, key, value, mask, causal, scale, output)
    else:
        grouped = query.shape[1] != key.shape[1]
        output.copy_(
            F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
        )
    return output


def _shape_in_graph(*arguments: Any) -> Tensor:
    from inc_autotune.torch_ext.target.attention_fusion import register_fusions

    register_fusions()  # now, since the graph is looked through for them when it is whole
    return _shaped(*arguments)


torch.library.register_fake("inc_autotune::bf16_attention", _shape_in_graph, lib=_OPERATORS)
_OPERATORS.impl("bf16_attention", _attention, "CPU")


def _call(
    kernel: Callable[..., None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    output: Tensor,
) -> None:
    tensors = [each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value)]
    batch, heads, rows, depth = query.shape
    sizes = (batch, heads, key.shape[1], rows, key.shape[2], depth)
    strides = [stride for each in tensors for stride in each.stride()[:3]]
    if mask is not None:
        mask = mask if mask.shape[-1:] == key.shape[2:3] else mask.expand(*mask.shape[:-1], key.shape[2])
        mask = (mask if mask.stride(-1) == 1 else mask.contiguous()).expand(batch, heads, rows, key.shape[2])
        strides += mask.stride()[:3]
    kernel(
        *map(address, (*tensors, mask, output)),
        (c_int64 * len(sizes))(*sizes),
        (c_int64 * len(strides))(*strides),
        c_float(scale),
        c_int(mask is not None and mask.dtype == torch.bool),
        c_int(causal),
        c_int(torch.get_num_threads()),
    )


@cache
def _kernel() -> Callable[..., None]:
    """The compiled function; raises what `built` does."""
    return built("attention.cpp", "bf16_attention")


def _try_out() -> None:
    """Compare the kernel with torch's on a small problem that has every feature.

    Raises:
        KernelError: it cannot be built, or differs.
    """
    count = 2 * 4 * 21 * 40
    values = torch.arange(3 * count, dtype=torch.float32).mul(0.7).sin()
    query = values[:count].view(2, 21, 4, 40).transpose(1, 2)
    key, value = values[count : count + count // 2], values[2 * count : 2 * count + count // 2]
    key, value = key.view(2, 2, 21, 40), value.view(2, 2, 21, 40)
    mask = (torch.arange(21 * 21) % 5 > 0).view(1, 1, 21, 21)
    for each in (None, mask, mask.float()):
        output = torch.empty(2, 21, 4, 40).transpose(1, 2)
        _call(_kernel(), query, key, value, each, each is None, 0.3, output)
        expected = F.scaled_dot_product_attention(
            query, key, value, each, is_causal=each is None, scale=0.3, enable_gqa=True
        )
        if not torch.allclose(output, expected, atol=0.02):
            raise KernelError("what it computes is wrong here")
