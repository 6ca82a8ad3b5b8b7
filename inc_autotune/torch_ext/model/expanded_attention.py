"""`nn.MultiheadAttention` with its projections as Linear children."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from inc_autotune.torch_ext.model.expanded_form import ExpandedForm, Parts, is_recorded, linear
from inc_autotune.torch_ext.model.packed_rows import Packing, marked

_INPUTS = ("q_proj", "k_proj", "v_proj")


class ExpandedAttention(ExpandedForm, nn.MultiheadAttention):
    """y = out_proj(attention(q_proj(query), k_proj(key), v_proj(value))), with all options of `nn.MultiheadAttention`.

    Inputs and outputs are those of `nn.MultiheadAttention.forward`. Attention itself is
    `F.scaled_dot_product_attention`, or, where the weights of the attention are asked for, a product, a softmax and a
    product. There is no fused path for evaluation mode, and nested tensors are refused.
    """

    hidden_parameters = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
    new_children = _INPUTS
    children_names = (*_INPUTS, "out_proj")

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    @staticmethod
    def linears(module: Any, parts: Parts) -> Mapping[str, nn.Linear]:
        if module._qkv_same_embed_dim:
            weights = parts.rows(module.in_proj_weight, 3)
        else:
            weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        biases = [None] * 3 if module.in_proj_bias is None else parts.rows(module.in_proj_bias, 3)
        inputs = [linear(weight, bias, module) for weight, bias in zip(weights, biases, strict=True)]
        # A Linear that torch marks as never called.
        object.__setattr__(module.out_proj, "__class__", nn.Linear)
        return dict(zip((*_INPUTS, "out_proj"), (*inputs, module.out_proj), strict=True))

    @staticmethod
    def problem(module: Any) -> str | None:
        out_proj = module.out_proj
        if type(out_proj) not in (nn.Linear, NonDynamicallyQuantizableLinear) or "forward" in out_proj.__dict__:
            return "its out_proj is no plain Linear, and torch reads the weight of that without calling it"
        if out_proj._forward_hooks or out_proj._forward_pre_hooks:
            return "its out_proj has forward hooks, and torch does not call it"
        return None

    @property
    def in_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return torch.cat([each.weight for each in self._inputs()]) if self._qkv_same_embed_dim else None

    @property
    def q_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else self.q_proj.weight

    @property
    def k_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else self.k_proj.weight

    @property
    def v_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else self.v_proj.weight

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        return None if self.q_proj.bias is None else torch.cat([each.bias for each in self._inputs()])

    def _inputs(self) -> tuple[nn.Linear, ...]:
        return self.q_proj, self.k_proj, self.v_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested or key.is_nested or value.is_nested:
            raise AssertionError("attention with quantized projections does not support nested tensors")
        packing = marked(key_padding_mask)
        if packing is not None:
            return self._of_rows(query, packing), None
        batched = _is_batched(query, key, value, key_padding_mask, attn_mask, self.num_heads)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal=True without attn_mask: give the causal mask, too")
        # The projections read what they are given, whatever its layout: those that read one tensor share its range.
        q, k, v = (self._heads(x, batched) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        _check_masks(key_padding_mask, attn_mask, q, k)
        hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if hint else self._mask(key_padding_mask, attn_mask, q)
        k, v, mask = self._with_more_keys(k, v, mask)
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            output = F.scaled_dot_product_attention(q, k, v, mask, dropout, hint)
            return self.out_proj(self._merged(output, batched)), None
        scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
        weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        output = self.out_proj(self._merged(weights @ v, batched))
        if average_attn_weights:
            weights = weights.mean(1)
        return output, weights if batched else weights.squeeze(0)

    def _of_rows(self, x: Tensor, packing: Packing) -> Tensor:
        """Self-attention over the rows [row, features] that a `PackedEncoder` gives."""
        q, k, v = (self._heads(packing.unpacked(each(x)), True) for each in (self.q_proj, self.k_proj, self.v_proj))
        output = F.scaled_dot_product_attention(q, k, v, packing.mask)
        result: Tensor = self.out_proj(packing.packed(self._merged(output, True)))
        return result

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """[batch, sequence, features] or what this module has for it as [batch, head, sequence, features]."""
        x = x.unflatten(-1, (self.num_heads, self.head_dim))  # type: ignore[no-untyped-call]
        if not batched:
            return x.unsqueeze(0).transpose(1, 2)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _merged(self, x: Tensor, batched: bool) -> Tensor:
        """Inverse of `_heads`."""
        if not batched:
            return x.squeeze(0).transpose(0, 1).flatten(-2)
        return (x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1, 3)).flatten(-2)

    def _mask(self, key_padding_mask: Tensor | None, attn_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one of floats that are added to the scores; it fits [batch, head, query, key]."""
        padding = F._canonical_mask(
            key_padding_mask, "key_padding_mask", F._none_or_dtype(attn_mask), "attn_mask", q.dtype
        )
        mask = F._canonical_mask(attn_mask, "attn_mask", None, "", q.dtype, check_other=False)
        if mask is not None:
            heads = (-1, self.num_heads)
            mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, heads)  # type: ignore[no-untyped-call]
        if padding is None:
            return mask
        padding = padding[..., None, None, :] if padding.dim() == 2 else padding[None, None, None]
        return padding if mask is None else mask + padding

    def _with_more_keys(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """With the learned key and value, and the one of zeros, where this module has them; no mask hides these."""
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, self._heads(bias, False).expand(x.shape[0], -1, -1, -1)], dim=2)
                for x, bias in ((k, self.bias_k[0]), (v, self.bias_v[0]))
            )
            more += 1
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
            more += 1
        return k, v, F.pad(mask, (0, more)) if mask is not None and more else mask


def _is_batched(query: Tensor, *others: Any) -> bool:
    """Whether the inputs are batches; refuses inputs and masks of another number of dimensions, as torch does."""
    batched: bool = F._mha_shape_check(query, *others)  # type: ignore[attr-defined]
    return batched


def _check_masks(key_padding_mask: Tensor | None, attn_mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """Refuse masks of another size, of which some would be repeated."""
    if is_recorded():
        return
    (samples, heads, queries, _), keys = q.shape, k.shape[2]
    allowed = {2: (queries, keys), 3: (samples * heads, queries, keys)}
    if attn_mask is not None and attn_mask.shape != allowed[attn_mask.dim()]:
        raise RuntimeError(f"attn_mask: has the shape {tuple(attn_mask.shape)}. Allowed: {allowed[attn_mask.dim()]}.")
    if key_padding_mask is not None and key_padding_mask.shape not in ((samples, keys), (keys,)):
        raise RuntimeError(
            f"key_padding_mask: has the shape {tuple(key_padding_mask.shape)}. Allowed: {(samples, keys)}."
        )
