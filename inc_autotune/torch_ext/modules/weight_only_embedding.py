"""Embedding whose integers lie as those of a product do, so that the two may have them together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.modules.integer_rows import dequantized, stored_weight
from inc_autotune.torch_ext.modules.state import QuantizedOperator


class WeightOnlyEmbedding(QuantizedOperator):
    """Looks up integer rows and dequantizes those, with a scale for each row or for each group of its columns.

    What it keeps has the names, dtypes and shapes of `WeightOnlyLinear`: `shared_rows.share_rows` gives both the same
    tensors where they hold the same numbers. Plain aten operators, in every form and on every device.

    Args:
        config: weight_only.
        source: the fp32 embedding, for its attributes.
        weight: integers [num_embeddings, embedding_dim], columns as `integer_rows.stored` wants them.
        weight_scale: [num_embeddings, groups].
        weight_zero_point: the same shape; of 4 bits and less, multiples of a sixteenth.
        smoothing: float32 [embedding_dim], by which rows are divided; None: they are not.
    """

    integer_weight: Tensor
    weight_scale: Tensor
    zero_points: Tensor | None
    smoothing: Tensor | None

    def __init__(
        self,
        config: OpConfig,
        source: Any,
        weight: Tensor,
        weight_scale: Tensor,
        weight_zero_point: Tensor,
        smoothing: Tensor | None,
    ) -> None:
        super().__init__(config)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = source.padding_idx
        self.bits = integer_type(config.weight.dtype).bits
        integers, scale, zero_points = stored_weight(weight, weight_scale, weight_zero_point, config.weight.dtype)
        self.keep("integer_weight", integers)
        self.keep("weight_scale", scale)
        self.keep("zero_points", zero_points)
        self.keep("smoothing", smoothing)

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        points = None if self.zero_points is None else self.zero_points[flat]
        rows = self._dequantized(torch.embedding(self.integer_weight, flat), self.weight_scale[flat], points)
        return rows.to(self.layer_dtype).reshape(*ids.shape, self.embedding_dim)

    def _dequantized(self, rows: Tensor, scale: Tensor, zero_points: Tensor | None) -> Tensor:
        values = dequantized(rows, self.bits, scale, zero_points, torch.float32)
        return values if self.smoothing is None else values / self.smoothing

    @property
    def weight(self) -> Tensor:
        return self._dequantized(self.integer_weight, self.weight_scale, self.zero_points).to(self.layer_dtype)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, {padding}{super().extra_repr()}"
