"""Embedding and EmbeddingBag with rows of 1 to 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import reduce_bags
from inc_autotune.torch_ext.target import kernels

_HALF_BYTE = 4


class QuantizedEmbedding(QuantizedOperator):
    """Looks up integer rows and dequantizes those: a quarter of the memory of float32, or an eighth.

    Rows are those of FBGEMM's tables: integers, then scale and offset as float32, `value = integer * scale + offset`;
    its kernel reads them where it exists. What is looked up has the dtype of the layer. Integers of up to 4 bits lie
    two in a byte, with their scales in tensors of their own. Plain aten operators do the rest, also traced, exported,
    compiled, and on every device.

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
        # Integers and zero points count from the smallest integer, since rows hold no signs.
        integers = (weight.to(torch.int16) - kind.minimum).to(torch.uint8)
        zero_point = (weight_zero_point.to(torch.int16) - kind.minimum).to(torch.uint8).expand(self.num_embeddings)
        scale = weight_scale.expand(self.num_embeddings)
        if self._is_packed:
            self.keep("integer_weight", _packed(integers))
            self.keep("weight_scale", scale.clone())
            self.keep("weight_zero_point", zero_point.clone())
        else:
            parameters = torch.stack((scale, -scale * zero_point), 1).contiguous().view(torch.uint8)
            self.keep("integer_weight", torch.cat((integers, parameters), 1))
        self.rebuild()

    @torch.no_grad()
    def rebuild(self) -> None:
        self._has_kernel = False
        if self._is_packed or not self.has_values:
            return
        scale, offset = self.integer_weight[:, self.embedding_dim :].contiguous().view(torch.float32).unbind(1)
        self.keep("weight_scale", scale.clone(), derived=True)
        self.keep("weight_zero_point", (-offset / scale).round().to(torch.uint8), derived=True)
        self._has_kernel = self.integer_weight.is_cpu and kernels.has_table_kernel()

    def forward(self, ids: Tensor) -> Tensor:
        return self._float_rows(ids).to(self.layer_dtype)

    def _float_rows(self, ids: Tensor) -> Tensor:
        """[*ids, embedding_dim], float32."""
        if not self._uses_kernel(ids):
            return self._looked_up(ids)
        flat = ids.reshape(-1)
        each = torch.arange(flat.numel(), dtype=flat.dtype)
        return kernels.summed_rows(self.integer_weight, flat, each, None, False).reshape(*ids.shape, self.embedding_dim)

    def _uses_kernel(self, ids: Tensor) -> bool:
        return self._has_kernel and ids.is_cpu and not torch.compiler.is_compiling()

    def _looked_up(self, ids: Tensor) -> Tensor:
        rows = torch.embedding(self.integer_weight, ids)
        scale, zero_point = self.weight_scale[ids].unsqueeze(-1), self.weight_zero_point[ids].unsqueeze(-1)
        return self._dequantized(rows, scale, zero_point)

    def _dequantized(self, rows: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        if self._is_packed:
            rows = torch.stack((rows & 15, rows >> _HALF_BYTE), -1).flatten(-2)
        return (rows[..., : self.embedding_dim].float() - zero_point.float()) * scale

    @property
    def weight(self) -> Tensor:
        rows = self._dequantized(
            self.integer_weight, self.weight_scale.unsqueeze(-1), self.weight_zero_point.unsqueeze(-1)
        )
        return rows.to(self.layer_dtype)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, {padding}{super().extra_repr()}"


class QuantizedEmbeddingBag(QuantizedEmbedding):
    """Sums, means or maxima of the rows of each bag, in float32; the kernel sums them itself.

    Arguments are those of `QuantizedEmbedding`.
    """

    def __init__(
        self, config: OpConfig, source: Any, weight: Tensor, weight_scale: Tensor, weight_zero_point: Tensor
    ) -> None:
        super().__init__(config, source, weight, weight_scale, weight_zero_point)
        self.mode, self.include_last_offset = source.mode, source.include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        factors = None if per_sample_weights is None else per_sample_weights.float()
        return self._float_bags(input, offsets, factors).to(self.layer_dtype)

    def _float_bags(self, input: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
        if not self._uses_kernel(input) or self.mode != "sum" or self.padding_idx is not None:
            return reduce_bags(self, self._float_rows(input), input, offsets, factors)
        has_last = self.include_last_offset and offsets is not None
        if offsets is None:
            offsets = torch.arange(input.shape[0], dtype=input.dtype) * input.shape[1]
        factors = None if factors is None else factors.reshape(-1)
        flat = input.reshape(-1)
        return kernels.summed_rows(self.integer_weight, flat, offsets.to(flat.dtype), factors, has_last)

    def extra_repr(self) -> str:
        return f"mode={self.mode}, {super().extra_repr()}"


def _packed(integers: Tensor) -> Tensor:
    """Uint8 below 16, two in a byte along the last axis, the first one in the lower half."""
    if integers.shape[-1] % 2:
        integers = torch.nn.functional.pad(integers, (0, 1))
    return integers[..., 0::2] | (integers[..., 1::2] << _HALF_BYTE)
