"""What every prepared operator shares: the parameters, attributes and hooks of the fp32 module it stands for."""

from __future__ import annotations

import copy
from inspect import get_annotations
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.model.layer import become, carry_over, names_of, refuse_reserved
from inc_autotune.torch_ext.operators import OPERATORS, Operator

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
        layer_class: class of the module it was made from.
        layer_dtype: of its weights there. Forms compute in float32 and return the dtype that they are given.
        weight: the parameter of the module it was made from, where that has one of this name.
        bias: the parameter of the module it was made from, likewise.
    """

    operator_name: str
    config: OpConfig
    layer_class: type[nn.Module]
    layer_dtype: torch.dtype
    weight: Tensor
    bias: Any

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.operator_name]


class PreparedInteger(PreparedOperator):
    """One with integer weights.

    Attributes:
        weight_minimum, weight_maximum: smallest and largest integer of its weights.
    """

    weight_minimum: int
    weight_maximum: int

    def half_rounded(self, rounds_weight: bool, *arguments: Any, **keywords: Any) -> Any:
        """The output where only the weights are rounded, or only the activations.

        Args:
            rounds_weight: which of the two.
            arguments, keywords: of `forward`.
        """
        raise NotImplementedError


PreparedType = TypeVar("PreparedType", bound=PreparedOperator)


def adopt(module: nn.Module, cls: type[PreparedType], operator_name: str, config: OpConfig) -> PreparedType:
    """A `cls` with the class, attributes, hooks and the very parameters of `module`, which stays as it is.

    Raises:
        ModelError: the module has something under a name that `cls` needs.
    """
    refuse_reserved(module, cls)
    adopted = cls.__new__(cls)
    for name, value in module.__dict__.items():
        adopted.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    become(adopted, cls, type(module))
    adopted.operator_name = operator_name
    adopted.config = config
    adopted.layer_class = type(module)
    adopted.layer_dtype = adopted.get_parameter(adopted.operator.weights(adopted)[0]).dtype
    return adopted


def hand_over(source: PreparedOperator, target: nn.Module) -> None:
    """Give `target` what is the user's of `source`: class, attributes, children, forward hooks, the training flag.

    Raises:
        ModelError: the user's layer has something under a name that `target` needs.
    """
    operator = source.operator
    theirs_no_more = {*operator.parameters(source), *operator.caches}
    known = {"weight", "bias", *own_names(type(source)), *operator.attributes, *theirs_no_more}
    theirs = [name for name in names_of(source) if name not in known]
    form = type(target)
    refused = [name for name in theirs if name in set(names_of(target)) or hasattr(form, name)]
    if refused:
        raise ModelError(f"its attribute {refused[0]!r} has a name that {form.__name__} needs; give it another name")
    # Such as `output_padding`, which a program may read although no integer kernel does.
    unused = [name for name in source.operator.attributes if name not in target.__dict__]
    carry_over(source, target, [*theirs, *unused])
    become(target, form, source.layer_class)
    for name in _FORWARD_HOOKS:
        target.__dict__[name] = copy.copy(source.__dict__[name])
    target.training = source.training


def make_plain(prepared: PreparedOperator) -> None:
    """Turn a prepared operator into the layer it was made from, in place, with the weights that it has now."""
    shift: Tensor | None = getattr(prepared, "bias_shift", None)
    if shift is not None:
        prepared._parameters["bias"] = nn.Parameter(
            (shift if prepared.bias is None else prepared.bias + shift).to(prepared.layer_dtype, copy=True)
        )
    layer = prepared.layer_class
    for name in own_names(type(prepared)):
        for table in (prepared.__dict__, prepared._parameters, prepared._buffers):
            table.pop(name, None)
    object.__setattr__(prepared, "__class__", layer)


def own_names(cls: type[PreparedOperator]) -> set[str]:
    """Names that a prepared class keeps its own values under, beside the parameters of the layer."""
    ours = (each for each in cls.__mro__ if issubclass(each, PreparedOperator))
    return {name for each in ours for name in get_annotations(each)} - {"weight", "bias"}


def describe(config: OpConfig) -> str:
    """A config in a few words, such as `weight=int8 sym per_channel, activation=uint8 asym, static`."""
    if config.weight.is_float:
        return config.weight.dtype
    weight, activation = config.weight, config.activation
    parts = [f"weight={weight.dtype} {weight.scheme} {weight.granularity}"]
    if not activation.is_float:
        by_token = " per_token" if activation.is_per_token else ""
        parts.append(f"activation={activation.dtype} {activation.scheme}{by_token}")
    return ", ".join([*parts, str(config.approach)])
