from dataclasses import replace

import pytest

from inc_autotune.core.analysis import timing, unit_timing
from inc_autotune.core.analysis.unit_speed import slow_units
from inc_autotune.core.analysis.unit_timing import TimedOperator, TimedUnit, time_units
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.units import Unit


class Clock:
    """A clock on which calls take what the test says."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def call(self, seconds):
        def take():
            self.now += seconds

        return take


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def operator(clock, cache_key, fp32, integer, *, made=None, name=""):
    """An operator that takes so many seconds."""

    def forms():
        if made is not None:
            made.append(name or cache_key)
        return clock.call(fp32), clock.call(integer)

    return TimedOperator(cache_key, f"{name or cache_key} alone", forms)


def timed(clock, *units, budget=1000.0, expired=lambda: False):
    """Speed-ups of units given as (name, cache key, fp32 seconds, integer seconds), and which of them were made."""
    made = []

    def unit(name, cache_key, fp32, integer):
        return TimedUnit(name, [operator(clock, cache_key, fp32, integer, made=made, name=name)])

    speeds = time_units(
        (unit(*each) for each in units), clock.perf_counter, shortest=0.01, budget=budget, expired=expired
    )
    return {name: each.speedup for name, each in speeds.items()}, made


def test_units_that_are_alike_are_timed_once(clock):
    speeds, made = timed(clock, ("a", "small", 2.0, 1.0), ("b", "large", 9.0, 3.0), ("c", "small", 5.0, 1.0))
    assert speeds == pytest.approx({"a": 2.0, "b": 3.0, "c": 2.0})
    assert made == ["a", "b"]


def test_units_that_are_too_short_are_left_out(clock):
    speeds, _ = timed(clock, ("a", "a", 0.001, 0.002), ("b", "a", 0.001, 0.002), ("c", "c", 2.0, 1.0))
    assert list(speeds) == ["c"]


def test_short_units_share_the_speed_of_their_sum_where_that_is_long_enough(clock):
    units = [TimedUnit(f"u{index}", [operator(clock, "a", 0.002, 0.004)]) for index in range(5)]
    units.append(TimedUnit("v", [operator(clock, "b", 0.009, 0.003), operator(clock, "b", 0.009, 0.003)]))
    units.append(TimedUnit("long", [operator(clock, "c", 2.0, 1.0)]))
    speeds = time_units(units, clock.perf_counter, shortest=0.01, budget=99.0, expired=lambda: False)
    together = speeds["u0"]
    assert together.is_short
    assert together.speedup == pytest.approx((5 * 0.002 + 2 * 0.009) / (5 * 0.004 + 2 * 0.003))
    assert together.measured == "a alone and 6 more"
    assert {name for name, speed in speeds.items() if speed == together} == {*(f"u{index}" for index in range(5)), "v"}
    assert not speeds["long"].is_short


def test_what_is_known_is_told_when_far_more_than_the_budget_is_spent(clock):
    speeds, made = timed(clock, ("a", "a", 2.0, 1.0), ("b", "b", 2.0, 1.0), budget=5.0 / unit_timing.PATIENCE)
    assert list(speeds) == made == ["a"]


def test_a_spent_budget_costs_repetitions_and_no_verdict(clock):
    """On a busy machine all takes longer, and the same units have to be judged."""
    close = [("a", "a", 1.0, 1.0), ("b", "b", 1.0, 1.0)]
    speeds, _ = timed(clock, *close, budget=1000.0)
    unhurried = clock.now
    hurried, _ = timed(clock, *close, budget=5.0)
    assert list(hurried) == list(speeds) == ["a", "b"]
    assert clock.now - unhurried < unhurried / 2


def test_nothing_is_timed_when_the_time_of_the_run_is_over(clock):
    assert timed(clock, ("a", "a", 2.0, 1.0), expired=lambda: True) == ({}, [])


def test_what_was_measured_is_told(clock):
    forms = (clock.call(2.0), clock.call(1.0))
    unit = TimedUnit("a", [TimedOperator("a", "Dense 16x16 on 8x16", lambda: forms)])
    (speed,) = time_units([unit], clock.perf_counter, shortest=0.0, budget=99.0, expired=lambda: False).values()
    assert speed.measured == "Dense 16x16 on 8x16"


def several(clock, *operators, shortest=0.01, budget=1000.0):
    """The speed of one unit of several operators, given as (cache key, fp32 seconds, integer seconds)."""
    made = []
    unit = TimedUnit("unit", [operator(clock, *each, made=made) for each in operators])
    speeds = time_units([unit], clock.perf_counter, shortest=shortest, budget=budget, expired=lambda: False)
    return speeds.get("unit"), made


def test_seconds_of_the_operators_of_a_unit_are_added(clock):
    speed, made = several(clock, ("a", 6.0, 1.0), ("b", 2.0, 3.0))
    assert speed.speedup == pytest.approx((6.0 + 2.0) / (1.0 + 3.0))
    assert speed.measured == "a alone and 1 more"
    assert made == ["a", "b"]


def test_an_operator_that_is_called_several_times_counts_as_often_and_is_timed_once(clock):
    speed, made = several(clock, ("a", 6.0, 1.0), ("b", 2.0, 3.0), ("a", 6.0, 1.0))
    assert speed.speedup == pytest.approx((6.0 + 2.0 + 6.0) / (1.0 + 3.0 + 1.0))
    assert made == ["a", "b"]


def test_operators_that_are_too_short_do_not_count_in_their_unit(clock):
    speed, _ = several(clock, ("short", 0.02, 0.001), ("a", 6.0, 2.0))
    assert speed.speedup == pytest.approx(3.0)
    assert speed.measured == "a alone"
    assert several(clock, ("short", 0.02, 0.001))[0] is None


def test_a_unit_that_is_not_timed_to_its_end_is_left_out(clock):
    assert several(clock, ("a", 6.0, 2.0), ("b", 6.0, 2.0), budget=5.0 / unit_timing.PATIENCE) == (None, ["a"])


def test_a_unit_without_a_call_is_said_not_to_run(clock):
    speeds = time_units([TimedUnit("idle", [])], clock.perf_counter, shortest=1.0, budget=100.0, expired=bool)
    assert not speeds["idle"].runs
    unit = Unit("idle", (("idle", "Dense"),), (OpConfig(TensorConfig("int8"), TensorConfig("uint8"), "static"), FP32))
    other = replace(unit, name="other")
    assert slow_units([unit, other], speeds) == {}
