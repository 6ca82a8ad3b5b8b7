"""Which unit hurts most, measured at the model's output without calling the user's evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.op_config import FP32
from inc_autotune.core.output_error import output_error
from inc_autotune.core.space import Assignment, TuningSpace


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
