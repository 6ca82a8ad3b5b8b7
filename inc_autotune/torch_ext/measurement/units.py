"""Speed of single units, in fp32 and as integers, by their operators, which run alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import Call, TimedOperator, TimedUnit, thread_clock, time_units
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.space import Unit
from inc_autotune.torch_ext.data import Batch, map_tensors, run
from inc_autotune.torch_ext.measurement.models import one_thread
from inc_autotune.torch_ext.model import shared_copy, tensors_in
from inc_autotune.torch_ext.modules import QuantizedConvolution
from inc_autotune.torch_ext.operators import OPERATORS

SHORTEST_SECONDS = 200e-6
"""Operators whose integer form takes less are not judged.

An eager call of the integer form costs 15 (Linear) to 30 microseconds (convolution) more than a traced one, which must
not decide. Above this limit the overhead is less than a sixth of the time; below it there is little to win.
"""

BUDGET_SECONDS = 1.0
"""For all operators of a model together."""


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator.

    Args:
        geometry: equal for calls that take equally long: type, shapes and attributes.
        name: the first operator with a call of this geometry.
        args: positional arguments of the first call.
        kwargs: keyword arguments of the first call.
        text: type and shapes, for people.
    """

    geometry: Hashable
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    text: str


@torch.no_grad()
def measure_units(
    units: Sequence[Unit],
    model: nn.Module,
    batches: Sequence[Batch],
    integer_module: Callable[[str, OpConfig], nn.Module],
    expired: Callable[[], bool],
    chains: Mapping[str, Collection[str]] | None = None,
) -> dict[str, UnitSpeed]:
    """Time the operators of every unit by themselves in one thread; those of equal geometry and configuration once.

    Args:
        units: units with an integer configuration as their first option.
        model: fp32, batch norms folded.
        batches: inputs of the model; all of them make one run.
        integer_module: takes the name of an operator and a configuration, and returns the quantized form.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.
        chains: convolutions that hand on integers, each with those that read them: the former are timed without the way
            back to float32, the latter without rounding their input.

    Returns:
        By unit name, without units whose operators are too short to be judged.
    """
    if not units or expired():
        return {}
    chains = chains or {}
    fed = {reader for readers in chains.values() for reader in readers}
    calls = operator_calls(model, {name: op_type for unit in units for name, op_type in unit.operators}, batches)
    timed = (
        TimedUnit(
            unit.name,
            [
                TimedOperator(
                    (call.geometry, config, name in chains, name in fed),
                    call.text,
                    partial(
                        _forms, model.get_submodule(name), partial(integer_module, name, config), call, name in fed
                    ),
                )
                for config in unit.options[:1]
                for name in unit.operator_names
                for call in calls[name]
            ],
        )
        for unit in units
    )
    with one_thread():
        return time_units(timed, thread_clock(), shortest=SHORTEST_SECONDS, budget=BUDGET_SECONDS, expired=expired)


def _forms(
    fp32: nn.Module, integer_module: Callable[[], nn.Module], call: OperatorCall, is_fed: bool
) -> tuple[Call, Call]:
    """A call of an operator in fp32 and in integers, which it may read from another one."""
    integer, args = integer_module(), call.args
    if is_fed and isinstance(integer, QuantizedConvolution):
        args = (integer.as_handed_on(args[0]), *args[1:])
    return partial(fp32, *call.args, **call.kwargs), partial(integer, *args, **call.kwargs)


def operator_calls(
    model: nn.Module, types: Mapping[str, str], batches: Sequence[Batch]
) -> dict[str, list[OperatorCall]]:
    """Run a model once on all batches and note what its operators read; of every geometry one input is kept.

    Args:
        model: left as it was.
        types: operator types by operator name.
        batches: inputs of the model.
    """
    watched = shared_copy(model, own_buffers=True)
    first: dict[Hashable, OperatorCall] = {}
    calls: dict[str, list[OperatorCall]] = {name: [] for name in types}

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = map_tensors((args, dict(kwargs)), Tensor.detach)
        tensors = list(tensors_in(given))
        layouts = ((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
        geometry = (types[name], *_attributes(types[name], module), *layouts)
        if geometry not in first:
            largest = max(_weights(types[name], module), key=Tensor.numel)
            weight, shape = ("x".join(map(str, tensor.shape)) for tensor in (largest, tensors[0]))
            first[geometry] = OperatorCall(geometry, name, given[0], given[1], f"{types[name]} {weight} on {shape}")
        calls[name].append(first[geometry])

    for name in types:
        watched.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True)
    for batch in batches:
        run(watched, batch)
    return calls


def _attributes(op_type: str, module: nn.Module) -> tuple[Hashable, ...]:
    names = (name for name in OPERATORS[op_type].attributes if not name.startswith("_"))
    values = (getattr(module, name) for name in names)
    return (*(weight.shape for weight in _weights(op_type, module)), getattr(module, "bias", None) is None, *values)


def _weights(op_type: str, module: nn.Module) -> list[Tensor]:
    return [module.get_parameter(name) for name in OPERATORS[op_type].weights(module)]
