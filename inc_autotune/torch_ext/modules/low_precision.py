"""Operators computed in bf16 or fp16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.prepared import PreparedOperator, adopt, describe
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import OPERATORS

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LowPrecisionPrepared(PreparedOperator):
    """The form before `convert`: parameters stay those of the float32 module and are cast at every call."""

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        dtype, bias = _DTYPES[self.config.dtype], getattr(self, "bias", None)
        return _compute(self, self.operator_name, x, self.weight.to(dtype), _cast(bias, dtype), *arguments, **keywords)

    def extra_repr(self) -> str:
        return f"{self.operator_name} {list(self.weight.shape)}, {describe(self.config)}"


class LowPrecisionOperator(QuantizedOperator):
    """Weight and bias in bf16 or fp16; the input is cast to that, the output back to the input's dtype.

    Args:
        operator_name: key of `OPERATORS`.
        config: `weight.dtype` is `bf16` or `fp16`.
        source: the prepared operator, for its attributes, weight and bias.
    """

    low_precision_weight: Tensor
    bias: Tensor | None

    def __init__(self, operator_name: str, config: OpConfig, source: PreparedOperator) -> None:
        super().__init__(config)
        self.operator_name = operator_name
        for name in OPERATORS[operator_name].attributes:
            setattr(self, name, getattr(source, name))
        dtype = _DTYPES[config.dtype]
        self.keep("low_precision_weight", source.weight.detach().to(dtype))
        self.keep("bias", _cast(getattr(source, "bias", None), dtype))

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        return _compute(self, self.operator_name, x, self.low_precision_weight, self.bias, *arguments, **keywords)

    @property
    def weight(self) -> Tensor:
        return self.low_precision_weight.float()

    def extra_repr(self) -> str:
        return f"{self.operator_name} {list(self.low_precision_weight.shape)}, {super().extra_repr()}"


def prepare_low_precision(module: nn.Module, operator_name: str, config: OpConfig) -> LowPrecisionPrepared:
    """The bf16 or fp16 form of an fp32 module, sharing its parameters."""
    return adopt(module, LowPrecisionPrepared, operator_name, config)


def is_low_precision(config: OpConfig) -> bool:
    return config.dtype in _DTYPES


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _compute(
    module: nn.Module,
    operator_name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *arguments: Any,
    **keywords: Any,
) -> Tensor:
    floating = x.is_floating_point()
    compute, given = OPERATORS[operator_name].compute, x.to(weight.dtype) if floating else x
    y = compute(module, given, weight, bias, *arguments, **keywords)
    return y.to(x.dtype if floating else torch.float32)
