"""Embedding with 8-bit rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.state import QuantizedOperator


class QuantizedEmbedding(QuantizedOperator):
    """Looks up 8-bit rows and dequantizes those: a quarter of the memory, float32 out.

    Plain aten operators only, so it runs, traces, exports and compiles on every device.

    Args:
        config: weight_only, int8 or uint8.
        source: the fp32 embedding, for its attributes.
        weight: int8 or uint8 [num_embeddings, embedding_dim].
        weight_scale: float32 [num_embeddings] or 0-d.
        weight_zero_point: int32, the same shape.
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
        self.keep("integer_weight", weight)
        self.keep("weight_scale", weight_scale.expand(self.num_embeddings).clone())
        self.keep("weight_zero_point", weight_zero_point.expand(self.num_embeddings).clone())

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.embedding(self.integer_weight, ids).float()
        scale, zero_point = self.weight_scale[ids].unsqueeze(-1), self.weight_zero_point[ids].unsqueeze(-1)
        return (rows - zero_point) * scale

    @property
    def weight(self) -> Tensor:
        return (self.integer_weight.float() - self.weight_zero_point.unsqueeze(-1)) * self.weight_scale.unsqueeze(-1)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, {padding}{super().extra_repr()}"
