"""Units whose integer form is not faster than fp32, found by measuring them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor, UnitSpeed
from inc_autotune.core.space import Unit

LEAST_SPEEDUP = 1.02
"""A unit with a smaller speed-up stays in fp32: it would cost accuracy for a gain that cannot be measured."""


@runtime_checkable
class SupportsUnitSpeeds(Protocol):
    """An adaptor that measures the speed of single units."""

    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        """Speed of every unit by itself in its default configuration, on inputs of the shape that `measure` uses.

        Args:
            units: to be measured.
            expired: asked between measurements; once true, the rest is left out.

        Returns:
            Without units that cannot be measured. Those too small for a difference to be seen are left out too, or
            share one speed, that of their sum, which `is_short`.
        """


def measured_speeds(
    adaptor: Adaptor, units: Sequence[Unit], *, expired: Callable[[], bool] = lambda: False
) -> Mapping[str, UnitSpeed]:
    """Speeds of units, by name, where the adaptor measures them; it costs no evaluation.

    Args:
        adaptor: calibrated.
        units: all units of the space. Measured are those whose default is an integer kernel: one that is simulated or
            weight-only is not there for its speed.
        expired: asked between measurements; once true, the rest is left out.
    """
    if not isinstance(adaptor, SupportsUnitSpeeds):
        return {}
    return adaptor.unit_speeds([unit for unit in units if is_meant_to_be_fast(adaptor, unit)], expired)


def slow_units(units: Sequence[Unit], speeds: Mapping[str, UnitSpeed]) -> dict[str, str]:
    """Operators that should stay in fp32, since their integer form is not measurably faster on this machine.

    Where every unit is slow none is named: a model without any integer operator is no result, and its measured speed-up
    tells the user. Short units are not judged by themselves: what they cost shows in the whole model.

    Args:
        units: all units of the space.
        speeds: see `measured_speeds`; units without one are not judged.

    Returns:
        The reason by operator name.
    """
    slow = [
        unit
        for unit in units
        if unit.name in speeds and speeds[unit.name].speedup < LEAST_SPEEDUP and _is_judged_alone(speeds[unit.name])
    ]
    if len(slow) == len(units):
        return {}
    return {
        name: f"{unit.options[0].dtype} is not faster here: {speed.speedup:.2f}x of fp32 ({speed.measured})"
        for unit in slow
        for speed in [speeds[unit.name]]
        for name in unit.operator_names
    }


def _is_judged_alone(speed: UnitSpeed) -> bool:
    return speed.runs and not speed.is_short and not speed.is_chained


def is_meant_to_be_fast(adaptor: Adaptor, unit: Unit) -> bool:
    """Whether a unit's default is an integer kernel; a simulated or weight-only one is not there for its speed."""
    default = unit.options[0]
    if default.approach not in ("static", "dynamic"):
        return False
    return not any(adaptor.is_simulated(name, default) for name in unit.operator_names)
