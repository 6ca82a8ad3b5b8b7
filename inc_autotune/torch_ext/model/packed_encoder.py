"""`nn.TransformerEncoder` that leaves out padding, as torch's does with nested tensors, for layers of Linears."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.torch_ext.model.expanded_attention import ExpandedAttention
from inc_autotune.torch_ext.model.fast_path import LEFT_OUT_PADDING
from inc_autotune.torch_ext.model.packed_rows import mark, packing_of

_METHODS = ("forward", "_sa_block", "_ff_block")


def can_pack(encoder: nn.Module) -> bool:
    """Whether an encoder may become a `PackedEncoder` once its attention is expanded."""
    if not isinstance(encoder, nn.TransformerEncoder):
        return False
    leaves_out = encoder.__dict__.get(LEFT_OUT_PADDING) or getattr(encoder, "use_nested_tensor", False)
    has_own = type(encoder).forward is not nn.TransformerEncoder.forward or "forward" in encoder.__dict__
    return bool(leaves_out) and not has_own and all(map(_is_plain, encoder.layers))


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer of an encoder computes what torch's does."""
    base = nn.TransformerEncoderLayer
    own = "forward" in layer.__dict__ or not isinstance(layer, base)
    return not own and all(getattr(type(layer), name) is getattr(base, name) for name in _METHODS)


class PackedEncoder(nn.TransformerEncoder):
    """An encoder whose layers read the real positions of all sequences as rows [position, features].

    In evaluation mode torch's encoder turns a batch whose padding stands at the end into a nested tensor, so that
    nothing is computed at padding, where its output is zero. Here the same batches become rows, which every layer takes
    as one sequence without a batch; only attention puts them back into their places. Other batches, and those of an
    encoder with a layer that cannot do this, run as torch runs them; exporting and compiling record that, too.
    """

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        if src_key_padding_mask is None or mask is not None or src.dim() != 3 or not self._packs():
            return super().forward(src, mask, src_key_padding_mask, is_causal)
        padding = F._canonical_mask(src_key_padding_mask, "src_key_padding_mask", None, "", src.dtype)
        assert padding is not None
        left_out = _left_out(padding)
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            count = int(left_out.sum())
            if count in (0, left_out.numel()):
                needed = src_key_padding_mask if bool(padding.any()) else None
                return super().forward(src, None, needed, is_causal)
        packing = packing_of(padding, left_out)
        x, marker = packing.packed(src), mark(padding.detach(), packing)
        for layer in self.layers:
            x = layer(x, src_mask=None, is_causal=False, src_key_padding_mask=marker)
        output = packing.padded(x, src)
        return output if self.norm is None else self.norm(output)

    def _packs(self) -> bool:
        if torch.compiler.is_compiling() or self.training or torch.is_autocast_enabled():
            return False
        return all(isinstance(layer.self_attn, ExpandedAttention) for layer in self.layers)


def _left_out(padding: Tensor) -> Tensor:
    """[batch, sequence]: padding, if it stands at the end of every sequence. A mask, since tracing keeps no `if`."""
    padded = padding != 0
    return padded & (padded[:, :-1] <= padded[:, 1:]).all()
