"""Keys and values of one attention layer in int8, for the caches of the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

_SCALE_BYTES = 4
_LEVELS = 127


class Int8Layer(DynamicLayer):  # type: ignore[misc, no-untyped-call, unused-ignore]  # transformers is typed in part
    """Holds each key and value of each head as int8 with a float32 scale behind it, in one tensor.

    So whatever the library does to tokens, batches and beams, which are other dimensions, it does to both.

    Attributes:
        keys: int8 [batch, heads, tokens, head_dim + 4].
        values: likewise.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = (
            each.new_empty((*each.shape[:-2], 0, each.shape[-1] + _SCALE_BYTES), dtype=torch.int8)
            for each in (key_states, value_states)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values so far, rounded, in the type of the new ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = torch.cat((self.keys, packed(key_states)), dim=-2)
        self.values = torch.cat((self.values, packed(value_states)), dim=-2)
        return unpacked(self.keys, key_states.dtype), unpacked(self.values, value_states.dtype)


def packed(states: Tensor) -> Tensor:
    """int8 [..., head_dim + 4]: symmetric integers of each vector, and the bytes of its scale."""
    scale = states.float().abs().amax(-1, keepdim=True) / _LEVELS
    # A vector of zeros has no scale: any will do.
    integers = (states / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    return torch.cat((integers, scale.view(torch.int8)), dim=-1)


def unpacked(states: Tensor, dtype: torch.dtype) -> Tensor:
    """The vectors that `packed` was given, rounded."""
    scale = states[..., -_SCALE_BYTES:].contiguous().view(torch.float32)
    return states[..., :-_SCALE_BYTES].float().mul_(scale).to(dtype)
