"""Which unit hurts most, and what it falls back to, measured at the model's output without any evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.output_error import output_error
from inc_autotune.core.space import Assignment, TuningSpace

REMAINING_HARM = 0.1
"""A faster fallback than fp32 is taken where no more than this part of a unit's harm is left."""


@dataclass(frozen=True)
class UnitHarm:
    """The output error of the model with this one unit quantized; None where it was not measured."""

    unit: str
    error: float | None


def rank_units(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    assignment: Assignment,
    *,
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[UnitHarm, ...]:
    """Rank the quantized units of `assignment`, the most harmful first.

    Each unit is quantized alone, as `assignment` has it, and the model is run on the held-out calibration
    samples: as many short forward passes as units, no evaluation.

    Args:
        expired: asked before each unit; once true, the remaining units are ranked last, in the model's order.
        advance: called after each unit, for a progress bar.
    """
    harms = []
    quantized = [unit for unit in space.units if assignment.by_unit[unit.name].is_quantized]
    everything_fp32 = assignment.replace({unit.name: FP32 for unit in space.units})
    for unit in quantized:
        alone = everything_fp32.replace({unit.name: assignment.by_unit[unit.name]})
        error = None if expired() else output_error(adaptor, space.tune_cfg(alone), model)
        harms.append(UnitHarm(unit.name, error))
        advance()
    return tuple(sorted(harms, key=lambda harm: -1.0 if harm.error is None else harm.error, reverse=True))


def choose_fallback(
    adaptor: Adaptor, model: Any, space: TuningSpace, assignment: Assignment, unit: str, error: float | None
) -> OpConfig:
    """What a harmful unit becomes instead: the first of dynamic and bf16 that takes most of the harm away, else fp32.

    Args:
        assignment: the decision in which the unit does harm.
        unit: its name.
        error: the harm, from `rank_units`; None, where it was not measured, goes straight to fp32.
    """
    current = assignment.by_unit[unit]
    if error is None:
        return FP32
    everything_fp32 = assignment.replace({each.name: FP32 for each in space.units})
    for rung in _rungs(space.by_name[unit].options, current):
        left = output_error(adaptor, space.tune_cfg(everything_fp32.replace({unit: rung})), model)
        if left is not None and left <= REMAINING_HARM * error:
            return rung
    return FP32


def _rungs(options: Sequence[OpConfig], current: OpConfig) -> list[OpConfig]:
    """The first dynamic and the first bf16 option, in this order; the smoothing stays as it is."""
    dynamic = [option for option in options if option.approach == "dynamic" and current.approach == "static"]
    bf16 = [option for option in options if option.dtype == "bf16"]
    return [option.with_alpha(current.alpha) for option in dynamic[:1]] + bf16[:1]
