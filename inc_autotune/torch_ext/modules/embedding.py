"""Embedding and EmbeddingBag with rows of 1 to 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import reduce_bags

_HALF_BYTE = 4


class QuantizedEmbedding(QuantizedOperator):
    """Looks up integer rows and dequantizes those, float32 out: a quarter of the memory, or an eighth.

    Integers of up to 4 bits lie two in a byte. Plain aten operators only, so it runs, traces, exports and compiles on
    every device.

    Args:
        config: weight_only.
        source: the fp32 embedding, for its attributes.
        weight: int8 or uint8 [num_embeddings, embedding_dim], within the bits of `config.weight.dtype`.
        weight_scale: float32 [num_embeddings] or 0-d.
        weight_zero_point: the same shape.
    """

    integer_weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor

    def __init__(
        self, config: OpConfig, source: Any, weight: Tensor, weight_scale: Tensor, weight_zero_point: Tensor
    ) -> None:
        super().__init__(config)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = source.padding_idx
        kind = integer_type(config.weight.dtype)
        self._is_packed = kind.bits <= _HALF_BYTE
        zero_point = weight_zero_point.to(weight.dtype)
        if self._is_packed:
            # Half a byte holds no sign: integers and zero points count from the smallest one.
            weight, zero_point = (
                (each.to(torch.int16) - kind.minimum).to(torch.uint8) for each in (weight, zero_point)
            )
            weight = _packed(weight)
        self.keep("integer_weight", weight)
        self.keep("weight_scale", weight_scale.expand(self.num_embeddings).clone())
        self.keep("weight_zero_point", zero_point.expand(self.num_embeddings).clone())

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.embedding(self.integer_weight, ids)
        scale, zero_point = self.weight_scale[ids].unsqueeze(-1), self.weight_zero_point[ids].unsqueeze(-1)
        return self._dequantized(rows, scale, zero_point)

    def _dequantized(self, rows: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        if self._is_packed:
            rows = torch.stack((rows & 15, rows >> _HALF_BYTE), -1).flatten(-2)[..., : self.embedding_dim]
        return (rows.float() - zero_point.float()) * scale

    @property
    def weight(self) -> Tensor:
        return self._dequantized(
            self.integer_weight, self.weight_scale.unsqueeze(-1), self.weight_zero_point.unsqueeze(-1)
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, {padding}{super().extra_repr()}"


class QuantizedEmbeddingBag(QuantizedEmbedding):
    """Sums, means or maxima of the rows of each bag, in float32. Arguments are those of `QuantizedEmbedding`."""

    def __init__(
        self, config: OpConfig, source: Any, weight: Tensor, weight_scale: Tensor, weight_zero_point: Tensor
    ) -> None:
        super().__init__(config, source, weight, weight_scale, weight_zero_point)
        self.mode, self.include_last_offset = source.mode, source.include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return reduce_bags(self, super().forward(input), input, offsets, per_sample_weights)

    def extra_repr(self) -> str:
        return f"mode={self.mode}, {super().extra_repr()}"


def _packed(weight: Tensor) -> Tensor:
    """Uint8 below 16, two in a byte along the last axis, the first one in the lower half."""
    if weight.shape[-1] % 2:
        weight = torch.nn.functional.pad(weight, (0, 1))
    return weight[..., 0::2] | (weight[..., 1::2] << _HALF_BYTE)
