"""Seconds of functions that are compared with each other, on a machine that may run other processes too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inc_autotune.core.analysis.unit_speed import LEAST_SPEEDUP

Call = Callable[[], object]
Clock = Callable[[], float]

FEWEST_ROUNDS = 3
MOST_ROUNDS = 50
BUDGET_SECONDS = 3.0
REPRODUCED = 1.02
"""The time of a function is known once its second fastest round is within this factor of the fastest."""

FEWEST_PAIRS = 3
CLEAR_PAIRS = 7
MOST_PAIRS = 75
CLEAR = 1.5
"""No further pairs are timed once all of at least `CLEAR_PAIRS` lie on one side of `LEAST_SPEEDUP` by this factor.
Pairs in a row are often disturbed alike, which turns 0.85 into 1.4."""


@dataclass(frozen=True)
class PairSeconds:
    """Seconds of one call in fp32 and as integers, and whether these are too few to be judged alone."""

    fp32: float
    integer: float
    is_short: bool = False


def thread_clock() -> Clock:
    """The clock for functions that compute in the calling thread: its CPU time, unaffected by other processes.

    Every verdict is found on it, in one thread. Threads that wait for each other have no such clock: their CPU time
    counts waiting in a loop, and a clock on the wall counts whatever else the machine does.
    """
    return time.thread_time


def wall_clock() -> Clock:
    """The clock for functions that compute in several threads, or on a device. No verdict may depend on it."""
    return time.perf_counter


def seconds(call: Call, clock: Clock) -> float:
    """Seconds of one call."""
    started = clock()
    call()
    return clock() - started


def interleaved_seconds(calls: Sequence[Call], clock: Clock) -> list[float]:
    """Seconds of one call of each function, called in turn so that drift of the machine affects all alike.

    All functions are called once to warm up, then in rounds until all times are known, `FEWEST_ROUNDS` to `MOST_ROUNDS`
    of them. No round begins after `BUDGET_SECONDS` of the clock, but there are always two. The fastest round counts:
    other processes can only make a call slower.
    """
    started = clock()
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for index in range(MOST_ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            taken.append(seconds(call, clock))
        if index + 1 >= FEWEST_ROUNDS and all(map(_is_known, times)):
            break
        if index and clock() - started > BUDGET_SECONDS:
            break
    return [min(taken) for taken in times]


def pair_seconds(
    fp32: Call, integer: Call, clock: Clock, *, shortest: float, ended: Callable[[], bool] = lambda: False
) -> PairSeconds:
    """Seconds of both forms of an operator, called in turn until it is clear which is faster.

    The second fastest call of each counts. Other processes share caches and cores with this one, which makes CPU time
    longer too, and for a while: medians of one operator differ by 40 % between two runs, fastest calls by 2 %. The very
    fastest does not count, since the clock of a process is late now and then.

    Args:
        fp32: computes the operator in fp32.
        integer: computes the operator in integers.
        clock: see `thread_clock`.
        shortest: where the integer form takes less than this, it is short.
        ended: asked after a few pairs; once true, no further ones are made.
    """

    def pair() -> tuple[float, float]:
        return seconds(fp32, clock), seconds(integer, clock)

    pair()  # to warm up
    pairs = [pair() for _ in range(FEWEST_PAIRS)]
    while not _is_settled(pairs, shortest) and len(pairs) < MOST_PAIRS and not ended():
        pairs.append(pair())
    fp32_seconds, integer_seconds = map(_fast, zip(*pairs, strict=True))
    return PairSeconds(fp32_seconds, integer_seconds, _is_short(pairs, shortest))


def _is_known(taken: Sequence[float]) -> bool:
    fastest, second = sorted(taken)[:2]
    return second <= REPRODUCED * fastest


def _fast(taken: Sequence[float]) -> float:
    """The second fastest of the calls; the fastest if there are few."""
    return sorted(taken)[1 if len(taken) >= CLEAR_PAIRS else 0]


def _is_short(pairs: Sequence[tuple[float, float]], shortest: float) -> bool:
    return _fast([integer for _, integer in pairs]) < shortest


def _is_settled(pairs: Sequence[tuple[float, float]], shortest: float) -> bool:
    """Whether there are enough pairs, and they are short, or all agree which form is faster."""
    if len(pairs) < CLEAR_PAIRS:
        return False
    ratios = [fp32 / integer for fp32, integer in pairs]
    is_clear = min(ratios) > LEAST_SPEEDUP * CLEAR or max(ratios) < LEAST_SPEEDUP / CLEAR
    return is_clear or _is_short(pairs, shortest)
