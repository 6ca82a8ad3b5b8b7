"""Units that stay in fp32 because the model with all of them as integers is slower than fp32."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.unit_speed import LEAST_SPEEDUP
from inc_autotune.core.space import Unit

SLOWER = 0.95
"""A model with less of the speed of fp32 is slower. What lies between this and 1 is not worth a decision that a busy
machine could turn around; once units have been given up, the model has to reach 1 again."""

NEAR = 0.1
"""A gain this close to the line that decides is measured again, and the median of three counts."""

SEGMENTS = 8
"""Units whose speed alone is not known are judged in so many runs of neighbours."""

Gain = Callable[[Sequence[str]], float | None]
"""Measured speed of the model over fp32 with these units in fp32; None where it is not measured."""


def slowing_units(units: Sequence[Unit], speeds: Mapping[str, UnitSpeed], gain: Gain) -> dict[str, str]:
    """Operators that should stay in fp32, so that the model is not slower than fp32.

    Units fall back in groups. Units of equal speed are one, as equal shapes and all short units are. Units that have no
    speed alone, such as convolutions that pass integers to each other, are cut into `SEGMENTS` runs of neighbours; the
    speed of each is by how much the model is faster with it in integers. First every group that is no faster falls
    back, then the least gaining of the others, at most half of what is left in each step. One group always stays. Where
    even that does not help nothing falls back: the result says that nothing was gained. Nor does anything where some
    units do not run on the inputs that are timed, such as experts that these do not reach: another input takes another
    way through the model, at another speed.

    Args:
        units: that may fall back, in the order of the model.
        speeds: by unit name, see `SupportsUnitSpeeds.unit_speeds`.
        gain: measures the model.

    Returns:
        The reason by operator name.
    """
    if len(units) < 2 or any(unit.name in speeds and not speeds[unit.name].runs for unit in units):
        return {}
    before = _repeated(gain, (), SLOWER)
    if before is None or before >= SLOWER:
        return {}
    by_speed = [*_groups(units, speeds), *_segments([unit for unit in units if unit.name not in speeds], gain, before)]
    by_speed.sort(key=lambda each: each[0])
    losing = [group for speed, group in by_speed if speed < (LEAST_SPEEDUP if group[0].name in speeds else 1.0)]
    groups = [*losing, *(group for _, group in by_speed if group not in losing)]
    for count in _counts(len(losing), len(groups)):
        fallen = [unit for group in groups[:count] for unit in group]
        after = _repeated(gain, [unit.name for unit in fallen], 1.0)
        if after is not None and after >= 1:
            return {
                name: _reason(unit, speeds.get(unit.name), before, after, len(fallen))
                for unit in fallen
                for name in unit.operator_names
            }
    return {}


def losing_chains(units: Sequence[Unit], speeds: Mapping[str, UnitSpeed], gain: Gain) -> dict[str, str]:
    """Operators inside chains of integers that should stay in fp32, since neither they nor the model are faster so.

    Units of equal speed are tried together, the slowest first; those stay in fp32 without which the model is faster. A
    unit that merely is no faster alone would break the chain for less than that costs its neighbours.

    Args:
        units: that may fall back.
        speeds: by unit name, see `SupportsUnitSpeeds.unit_speeds`.
        gain: measures the model.

    Returns:
        The reason by operator name.
    """
    chained = [unit for unit in units if unit.name in speeds and speeds[unit.name].is_chained]
    losing = [unit for unit in chained if speeds[unit.name].speedup < LEAST_SPEEDUP]
    before = gain(()) if losing else None
    reasons: dict[str, str] = {}
    fallen: list[str] = []
    for _, group in _groups(losing, speeds):
        names = [unit.name for unit in group]
        if before is None or len(fallen) + len(names) == len(units):
            break
        after = gain([*fallen, *names])
        if after is None or after < before * LEAST_SPEEDUP:
            continue
        for unit in group:
            speed = speeds[unit.name]
            reason = (
                f"{unit.options[0].dtype} is not faster here: {speed.speedup:.2f}x of fp32 ({speed.measured}), and the "
                f"whole model {before:.2f}x with the {len(group)} units of this reason, {after:.2f}x without"
            )
            reasons |= dict.fromkeys(unit.operator_names, reason)
        fallen, before = [*fallen, *names], after
    return reasons


def _groups(units: Sequence[Unit], speeds: Mapping[str, UnitSpeed]) -> list[tuple[float, list[Unit]]]:
    """Units of equal speed, with that speed, the least gaining first."""
    found: dict[tuple[float, bool], list[Unit]] = {}
    for unit in units:
        if (speed := speeds.get(unit.name)) is not None:
            found.setdefault((speed.speedup, speed.is_short), []).append(unit)
    return [(key[0], found[key]) for key in sorted(found)]


def _segments(units: Sequence[Unit], gain: Gain, before: float) -> list[tuple[float, list[Unit]]]:
    """Runs of neighbours, with the speed of the model over that of the model with the run in fp32."""
    size = max(1, math.ceil(len(units) / SEGMENTS))
    found = []
    for start in range(0, len(units), size):
        segment = list(units[start : start + size])
        after = gain([unit.name for unit in segment])
        found.append((1.0 if after is None else before / after, segment))
    return found


def _counts(losing: int, groups: int) -> Iterator[int]:
    """Numbers of groups to give up: all that lose, then more, up to all but one."""
    count = min(max(losing, 1), groups - 1)
    while count < groups:
        yield count
        count += max(1, (groups - count) // 2)


def _repeated(gain: Gain, fallen: Sequence[str], line: float) -> float | None:
    """The gain, measured three times where it is near the line."""
    first = gain(fallen)
    if first is None or abs(first - line) > NEAR:
        return first
    more = [again for _ in range(2) if (again := gain(fallen)) is not None]
    return statistics.median([first, *more])


def _reason(unit: Unit, speed: UnitSpeed | None, before: float, after: float, count: int) -> str:
    alone = "" if speed is None else f"; {speed.speedup:.2f}x alone ({speed.measured})"
    return (
        f"the whole model is slower in {unit.options[0].dtype} here: {before:.2f}x of fp32 with the {count} units of "
        f"this reason, {after:.2f}x without{alone}"
    )
