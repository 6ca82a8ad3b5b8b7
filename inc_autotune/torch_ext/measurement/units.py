"""Speed of single operators, in fp32 and as integers."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.timing import PairSeconds, pair_seconds
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.space.units import Unit
from inc_autotune.torch_ext.data.batches import Batch, run
from inc_autotune.torch_ext.measurement.models import clock
from inc_autotune.torch_ext.model.copies import shared_copy
from inc_autotune.torch_ext.operators.types import OPERATORS

SHORTEST_SECONDS = 200e-6
"""Integer operators that are done sooner are not judged.

Called eagerly they cost 15 (Linear) to 30 microseconds (convolution) more than traced, which must not decide. Above
this limit that is less than a sixth of the time; below it there is little to win.
"""

BUDGET_SECONDS = 1.0
"""For all operators of a model together."""


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator.

    Args:
        geometry: equal for calls that take equally long: type, shapes and attributes.
        name: the first operator that was called so.
        input: what it read.
        text: type and shapes, for people.
    """

    geometry: Hashable
    name: str
    input: Tensor
    text: str


@torch.no_grad()
def measure_units(
    units: Sequence[Unit],
    model: nn.Module,
    batch: Batch,
    integer_module: Callable[[str, OpConfig], nn.Module],
    expired: Callable[[], bool],
) -> dict[str, UnitSpeed]:
    """Time the operators of each unit by themselves; those of equal geometry and configuration are timed once.

    Args:
        units: whose first option is an integer configuration.
        model: fp32, batch norms folded.
        batch: inputs of the model.
        integer_module: the quantized form of the operator of a name.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        By unit name, without units whose operators are too short to be judged.
    """
    if not units or expired():
        return {}
    deadline = time.perf_counter() + BUDGET_SECONDS

    def ended() -> bool:
        return expired() or time.perf_counter() >= deadline

    calls = operator_calls(model, {name: op_type for unit in units for name, op_type in unit.operators}, batch)
    known: dict[Hashable, PairSeconds | None] = {}
    speeds: dict[str, UnitSpeed] = {}
    for unit in units:
        config = unit.options[0]
        judged: list[tuple[OperatorCall, PairSeconds]] = []
        for call in chain.from_iterable(calls[name] for name in unit.operator_names):
            key = (call.geometry, config)
            if key not in known:
                if ended():
                    return speeds
                forms = model.get_submodule(call.name), integer_module(call.name, config)
                fp32, integer = (partial(form, call.input) for form in forms)
                known[key] = pair_seconds(fp32, integer, clock(), shortest=SHORTEST_SECONDS, ended=ended)
            pair = known[key]
            if pair is not None:
                judged.append((call, pair))
        if judged:
            speeds[unit.name] = _unit_speed(judged)
    return speeds


def _unit_speed(judged: Sequence[tuple[OperatorCall, PairSeconds]]) -> UnitSpeed:
    speedup = sum(pair.fp32 for _, pair in judged) / sum(pair.integer for _, pair in judged)
    more = f" and {len(judged) - 1} more" if len(judged) > 1 else ""
    return UnitSpeed(speedup, judged[0][0].text + more)


def operator_calls(model: nn.Module, types: Mapping[str, str], batch: Batch) -> dict[str, list[OperatorCall]]:
    """Run a model once and note what its operators read; one input is kept for each geometry.

    Args:
        model: left as it was.
        types: operator types by operator name.
        batch: inputs of the model.
    """
    watched = shared_copy(model, own_buffers=True)
    first: dict[Hashable, OperatorCall] = {}
    calls: dict[str, list[OperatorCall]] = {name: [] for name in types}

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        value = (args[0] if args else next(iter(kwargs.values()))).detach()
        geometry = (types[name], *_attributes(types[name], module), value.shape, value.stride(), value.dtype)
        if geometry not in first:
            weight, shape = ("x".join(map(str, each.shape)) for each in (module.get_parameter("weight"), value))
            first[geometry] = OperatorCall(geometry, name, value, f"{types[name]} {weight} on {shape}")
        calls[name].append(first[geometry])

    for name in types:
        watched.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True)
    run(watched, batch)
    return calls


def _attributes(op_type: str, module: nn.Module) -> tuple[Hashable, ...]:
    names = (name for name in OPERATORS[op_type].attributes if not name.startswith("_"))
    return (module.get_parameter("weight").shape, module.bias is None, *(getattr(module, name) for name in names))
