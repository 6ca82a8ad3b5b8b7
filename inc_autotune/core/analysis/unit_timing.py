"""Speed of units in fp32 and in integers. Operators are timed alone, and equal operators once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.timing import Call, Clock, PairSeconds, pair_seconds

PATIENCE = 5.0
"""Budgets after which no further operator is timed. A verdict that is left out means int8."""


@dataclass(frozen=True)
class TimedOperator:
    """One call of an operator, or of several operators as a small model.

    Args:
        cache_key: equal for calls that take equally long: types, shapes and configuration.
        measured: description of the call for the user: `Linear 1024x768 on 8x128x768`.
        forms: makes two functions, which compute the call in fp32 and in integers.
    """

    cache_key: Hashable
    measured: str
    forms: Callable[[], tuple[Call, Call]]


@dataclass(frozen=True)
class TimedUnit:
    """The calls of a unit in one forward pass.

    Args:
        name: of the unit.
        operators: the calls, whose seconds are added; an operator that is called several times is listed as often.
    """

    name: str
    operators: Sequence[TimedOperator]


def time_units(
    units: Iterable[TimedUnit], clock: Clock, *, shortest: float, budget: float, expired: Callable[[], bool]
) -> dict[str, UnitSpeed]:
    """Time units, in this order.

    Args:
        units: to be measured.
        clock: see `core.analysis.timing.thread_clock`.
        shortest: seconds; operators whose integer form takes less are not judged alone.
        budget: seconds of the clock for all units together. Once they are spent every operator gets the fewest pairs.
            On a busy machine they last as long as on an idle one.
        expired: asked between measurements; once true, or once `PATIENCE` budgets are spent, the rest is left out.

    Returns:
        By unit name, without units that were not timed to their end. Units whose operators are all short have one
        speed, that of their sum, unless even the sum is too short. Units without a call do not run.
    """
    started = clock()

    def ended(budgets: float = 1.0) -> bool:
        return expired() or clock() >= started + budgets * budget

    known: dict[Hashable, PairSeconds] = {}
    speeds: dict[str, UnitSpeed] = {}
    short: dict[str, list[tuple[TimedOperator, PairSeconds]]] = {}
    for unit in units:
        for operator in unit.operators:
            if operator.cache_key in known or ended(PATIENCE):
                continue
            fp32, integer = operator.forms()
            known[operator.cache_key] = pair_seconds(fp32, integer, clock, shortest=shortest, ended=ended)
        if not all(operator.cache_key in known for operator in unit.operators):
            continue
        timed = [(operator, known[operator.cache_key]) for operator in unit.operators]
        judged = [(operator, pair) for operator, pair in timed if not pair.is_short]
        if judged:
            speeds[unit.name] = _unit_speed(judged)
        elif timed:
            short[unit.name] = timed
        else:
            speeds[unit.name] = UnitSpeed(1.0, "does not run on the inputs that are timed", runs=False)
    together = [each for timed in short.values() for each in timed]
    if sum(pair.integer for _, pair in together) >= shortest and together:
        speed = replace(_unit_speed(together), is_short=True)
        speeds |= dict.fromkeys(short, speed)
    return speeds


def _unit_speed(judged: Sequence[tuple[TimedOperator, PairSeconds]]) -> UnitSpeed:
    speedup = sum(pair.fp32 for _, pair in judged) / sum(pair.integer for _, pair in judged)
    more = f" and {len(judged) - 1} more" if len(judged) > 1 else ""
    return UnitSpeed(speedup, judged[0][0].measured + more)
