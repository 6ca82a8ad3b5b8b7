"""Units whose integer form is not faster than fp32, found by measuring them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor, UnitSpeed
from inc_autotune.core.space.units import Unit

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
            Without units that cannot be measured, or that are too small for a difference to be seen.
        """


def slow_units(
    adaptor: Adaptor, units: Sequence[Unit], *, expired: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """Operators that should stay in fp32, since their integer form is not measurably faster on this machine.

    Measured before the first trial, so it costs no evaluation. Judged are units whose default is an integer
    kernel: one that is simulated or weight-only is not there for its speed. Where every unit is slow none is named:
    a model without any integer operator is no result, and its measured speed-up tells the user.

    Args:
        adaptor: measures, where it can; calibrated.
        units: all units of the space.
        expired: asked between measurements; once true, the units not measured yet are not judged.

    Returns:
        The reason by operator name.
    """
    if not isinstance(adaptor, SupportsUnitSpeeds):
        return {}
    judged = [unit for unit in units if _is_meant_to_be_fast(adaptor, unit)]
    speeds = adaptor.unit_speeds(judged, expired)
    slow = [unit for unit in judged if unit.name in speeds and speeds[unit.name].speedup < LEAST_SPEEDUP]
    if len(slow) == len(units):
        return {}
    return {
        name: f"{unit.options[0].dtype} is not faster here: {speed.speedup:.2f}x of fp32 ({speed.measured})"
        for unit in slow
        for speed in [speeds[unit.name]]
        for name in unit.operator_names
    }


def _is_meant_to_be_fast(adaptor: Adaptor, unit: Unit) -> bool:
    default = unit.options[0]
    if default.approach not in ("static", "dynamic"):
        return False
    return not any(adaptor.is_simulated(name, default) for name in unit.operator_names)
