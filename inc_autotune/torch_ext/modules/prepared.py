"""What every prepared operator shares: the parameters, attributes and hooks of the fp32 module it stands for."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.operators.types import OPERATORS, Operator

_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class PreparedOperator(nn.Module):
    """An operator in the tuned model before `convert`: trainable, computed in float.

    Attributes:
        operator_name: key of `OPERATORS`.
        config: how the operator is quantized.
        weight: the parameter of the module it was made from.
        bias: the parameter of the module it was made from; absent from an Embedding.
    """

    operator_name: str
    config: OpConfig
    weight: Tensor
    bias: Any

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.operator_name]


PreparedType = TypeVar("PreparedType", bound=PreparedOperator)


def adopt(module: nn.Module, cls: type[PreparedType], operator_name: str, config: OpConfig) -> PreparedType:
    """A `cls` with the attributes, hooks and the very parameters of `module`, which stays as it is."""
    adopted = cls.__new__(cls)
    for name, value in module.__dict__.items():
        adopted.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    adopted.operator_name = operator_name
    adopted.config = config
    return adopted


def hand_over(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the forward hooks and the training flag of `source`."""
    for name in _FORWARD_HOOKS:
        target.__dict__[name] = copy.copy(source.__dict__[name])
    target.training = source.training


def describe(config: OpConfig) -> str:
    """A config in a few words, such as `weight=int8 sym per_channel, activation=uint8 asym, static`."""
    if config.weight.is_float:
        return config.weight.dtype
    weight, activation = config.weight, config.activation
    parts = [f"weight={weight.dtype} {weight.scheme} {weight.granularity}"]
    if not activation.is_float:
        parts.append(f"activation={activation.dtype} {activation.scheme}")
    return ", ".join([*parts, str(config.approach)])
