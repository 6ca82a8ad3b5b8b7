"""Operators computed in bf16 or fp16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.prepared import PreparedOperator, adopt, describe
from inc_autotune.torch_ext.modules.recurrent_form import RecurrentForm
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import OPERATORS, RECURRENT_TYPES, Tensors

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LowPrecisionPrepared(PreparedOperator):
    """The form before `convert`: parameters stay those of the layer and are cast at every call."""

    def forward(self, x: Any, *arguments: Any, **keywords: Any) -> Any:
        dtype = _DTYPES[self.config.dtype]
        tensors = {name: _cast(tensor, dtype) for name, tensor in self.operator.tensors(self).items()}
        return _compute(self, self.operator_name, x, tensors, *arguments, **keywords)

    def extra_repr(self) -> str:
        weights = (list(self.get_parameter(name).shape) for name in self.operator.weights(self))
        return f"{self.operator_name} {', '.join(map(str, weights))}, {describe(self.config)}"


class LowPrecisionOperator(QuantizedOperator):
    """Weights and biases in bf16 or fp16; the input is cast to that, the output back to the input's dtype.

    Args:
        operator_name: key of `OPERATORS`.
        config: `weight.dtype` is `bf16` or `fp16`.
        source: the prepared operator, for its attributes, weight and bias.
    """

    def __init__(self, operator_name: str, config: OpConfig, source: PreparedOperator) -> None:
        super().__init__(config)
        self.operator_name = operator_name
        operator, dtype = OPERATORS[operator_name], _DTYPES[config.dtype]
        for name in operator.attributes:
            setattr(self, name, getattr(source, name))
        for name, tensor in operator.tensors(source).items():
            self.keep(_kept(name), _cast(None if tensor is None else tensor.detach(), dtype))

    def forward(self, x: Any, *arguments: Any, **keywords: Any) -> Any:
        names = OPERATORS[self.operator_name].parameters(self)
        tensors = {name: self._buffers.get(_kept(name)) for name in names}
        return _compute(self, self.operator_name, x, tensors, *arguments, **keywords)

    @property
    def weight(self) -> Tensor:
        return self.get_buffer(_kept("weight")).to(self.layer_dtype)

    def extra_repr(self) -> str:
        return f"{self.operator_name} {list(self.weight.shape)}, {super().extra_repr()}"


class LowPrecisionRecurrent(RecurrentForm, LowPrecisionOperator):
    """An LSTM, GRU or RNN in bf16 or fp16."""

    def float_tensor(self, name: str) -> Tensor | None:
        if _kept(name) not in self._buffers:  # not made yet
            raise AttributeError(name)
        tensor = self._buffers[_kept(name)]
        return None if tensor is None else tensor.to(self.layer_dtype)

    def extra_repr(self) -> str:
        return f"{nn.RNNBase.extra_repr(self)}, {QuantizedOperator.extra_repr(self)}"  # type: ignore[arg-type]


def convert_low_precision(prepared: LowPrecisionPrepared) -> LowPrecisionOperator:
    """The deployable form of one in bf16 or fp16."""
    form = LowPrecisionRecurrent if prepared.operator_name in RECURRENT_TYPES else LowPrecisionOperator
    return form(prepared.operator_name, prepared.config, prepared)


def prepare_low_precision(module: nn.Module, operator_name: str, config: OpConfig) -> LowPrecisionPrepared:
    """The bf16 or fp16 form of an fp32 module, sharing its parameters."""
    return adopt(module, LowPrecisionPrepared, operator_name, config)


def is_low_precision(config: OpConfig) -> bool:
    return config.dtype in _DTYPES


def _kept(name: str) -> str:
    """The buffer that holds a parameter's values."""
    return f"low_precision_{name}" if name.startswith("weight") else name


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _compute(module: nn.Module, operator_name: str, x: Any, tensors: Tensors, *arguments: Any, **keywords: Any) -> Any:
    compute = OPERATORS[operator_name].compute
    if operator_name in RECURRENT_TYPES:  # which casts by itself, also what is packed
        return compute(module, x, tensors, *arguments, **keywords)
    floating, weight = x.is_floating_point(), tensors["weight"]
    assert weight is not None
    y = compute(module, x.to(weight.dtype) if floating else x, tensors, *arguments, **keywords)
    return y.to(x.dtype if floating else module.layer_dtype)
