"""Seconds of functions that are compared with each other, on a machine that may run other processes too."""

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
"""The time of a function is known once its second fastest round is within this factor of the fastest."""

FEWEST_PAIRS = 3
MOST_PAIRS = 25
CLEAR = 1.1
"""No further pairs are timed once all ratios lie on one side of `LEAST_SPEEDUP`, by this factor or more."""


@dataclass(frozen=True)
class PairSeconds:
    """Seconds of one call in fp32 and as integers, and whether these are too few to be judged alone."""

    fp32: float
    integer: float
    is_short: bool = False


def clock_of(threads: int) -> Clock:
    """The clock for functions that compute in a number of threads.

    For one thread its CPU time, unaffected by other processes. For several threads, which wait for each other, wall
    time.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def seconds(call: Call, clock: Clock) -> float:
    """Seconds of one call."""
    started = clock()
    call()
    return clock() - started


def interleaved_seconds(calls: Sequence[Call], clock: Clock) -> list[float]:
    """Seconds of one call of each function, called in turn so that drift of the machine affects all alike.

    All functions are called once to warm up, then in rounds until all times are known, `FEWEST_ROUNDS` to `MOST_ROUNDS`
    of them. No round begins after `BUDGET_SECONDS`, but there are always two. The fastest round counts, since other
    processes can only make a call slower.
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
        fp32: computes the operator in fp32.
        integer: computes the operator in integers.
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
