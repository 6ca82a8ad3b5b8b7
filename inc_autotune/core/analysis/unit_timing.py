"""Speed of units that are timed alone, in fp32 and as integers; units with one cache key are timed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.timing import Call, Clock, PairSeconds, pair_seconds


@dataclass(frozen=True)
class TimedUnit:
    """A unit as a small model of its own.

    Attributes:
        name: of the unit.
        cache_key: equal for units that take equally long: types, shapes and configuration.
        measured: what is measured, for people: `Linear 1024x768 on 8x128x768`.
        forms: makes the functions that compute it in fp32 and in integers.
    """

    name: str
    cache_key: Hashable
    measured: str
    forms: Callable[[], tuple[Call, Call]]


def time_units(
    units: Iterable[TimedUnit], clock: Clock, *, shortest: float, budget: float, expired: Callable[[], bool]
) -> dict[str, UnitSpeed]:
    """Time units, in this order.

    Args:
        units: to be measured.
        clock: see `core.timing.clock_of`.
        shortest: seconds; units whose integer form takes less are not judged.
        budget: seconds on the wall for all of them together.
        expired: asked between measurements; once true, or once the budget is spent, the rest is left out.

    Returns:
        By unit name, without those that are too short or were left out.
    """
    deadline = time.perf_counter() + budget

    def ended() -> bool:
        return expired() or time.perf_counter() >= deadline

    known: dict[Hashable, PairSeconds | None] = {}
    speeds: dict[str, UnitSpeed] = {}
    for unit in units:
        if unit.cache_key not in known:
            if ended():
                break
            fp32, integer = unit.forms()
            known[unit.cache_key] = pair_seconds(fp32, integer, clock, shortest=shortest, ended=ended)
        taken = known[unit.cache_key]
        if taken is not None:
            speeds[unit.name] = UnitSpeed(taken.fp32 / taken.integer, unit.measured)
    return speeds
