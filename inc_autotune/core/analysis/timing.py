"""Seconds of functions that are compared with each other, on a machine that may have other work to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inc_autotune.core.analysis.unit_speed import LEAST_SPEEDUP

Call = Callable[[], object]
Clock = Callable[[], float]

FEWEST_ROUNDS = 3
MOST_ROUNDS = 9
BUDGET_SECONDS = 3.0
REPRODUCED = 1.02
"""A time counts as known once the second fastest round is within this factor of the fastest."""

FEWEST_PAIRS = 3
MOST_PAIRS = 25
CLEAR = 1.1
"""Pairs whose ratios all lie beyond `LEAST_SPEEDUP` by this factor need no further ones."""


@dataclass(frozen=True)
class PairSeconds:
    """Seconds of one call in fp32 and as integers, and whether these are too few to be judged alone."""

    fp32: float
    integer: float
    is_short: bool = False


def clock_of(threads: int) -> Clock:
    """The clock for work of so many threads.

    One thread has a time of its own: the same as on a clock, but without the times at which the machine did something
    else. Several threads wait for each other, so there the clock on the wall decides.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def seconds(call: Call, clock: Clock) -> float:
    """How long a call takes."""
    started = clock()
    call()
    return clock() - started


def interleaved_seconds(calls: Sequence[Call], clock: Clock) -> list[float]:
    """Seconds of one call of each function, taken in turn so that a drifting machine hits all alike.

    Each runs once to warm up, then until its time is known, from `FEWEST_ROUNDS` to `MOST_ROUNDS` times; no round is
    begun after `BUDGET_SECONDS`, but two are always made. The fastest one counts: other jobs on the machine can only
    make a call slower.
    """
    started = time.perf_counter()
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for index in range(MOST_ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            taken.append(seconds(call, clock))
        if index + 1 >= FEWEST_ROUNDS and all(map(_is_known, times)):
            break
        if index and time.perf_counter() - started > BUDGET_SECONDS:
            break
    return [min(taken) for taken in times]


def pair_seconds(
    fp32: Call, integer: Call, clock: Clock, *, shortest: float, ended: Callable[[], bool] = lambda: False
) -> PairSeconds:
    """Seconds of both forms of an operator, called in turn until it is clear which is faster.

    The medians, or the fastest calls if the integer form does better by these: int8 is given up where both say that it
    is slow. Other jobs can make either of them say so by chance, seldom both.

    Args:
        fp32: computes it in fp32.
        integer: computes it in integers.
        clock: see `clock_of`.
        shortest: where the integer form takes less than this, it is short. Its fastest call tells: a busy machine only
            makes calls longer.
        ended: asked after a few pairs; once true, no further ones are made.
    """

    def pair() -> tuple[float, float]:
        return seconds(fp32, clock), seconds(integer, clock)

    pair()  # to warm up
    pairs = [pair() for _ in range(FEWEST_PAIRS)]
    while not _is_short(pairs, shortest) and not _is_clear(pairs) and len(pairs) < MOST_PAIRS and not ended():
        pairs.append(pair())
    of_fp32, of_integer = zip(*pairs, strict=True)
    middle = statistics.median(of_fp32), statistics.median(of_integer)
    fastest = min(of_fp32), min(of_integer)
    fp32_seconds, integer_seconds = max(middle, fastest, key=lambda each: each[0] / each[1])
    return PairSeconds(fp32_seconds, integer_seconds, _is_short(pairs, shortest))


def _is_known(taken: Sequence[float]) -> bool:
    fastest, second = sorted(taken)[:2]
    return second <= REPRODUCED * fastest


def _is_short(pairs: Sequence[tuple[float, float]], shortest: float) -> bool:
    return min(integer for _, integer in pairs) < shortest


def _is_clear(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether all pairs agree which form is faster."""
    ratios = [fp32 / integer for fp32, integer in pairs]
    return min(ratios) > LEAST_SPEEDUP * CLEAR or max(ratios) < LEAST_SPEEDUP / CLEAR
