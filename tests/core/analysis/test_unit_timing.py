import pytest

from inc_autotune.core.analysis import timing, unit_timing
from inc_autotune.core.analysis.unit_timing import TimedUnit, time_units


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
    monkeypatch.setattr(unit_timing, "time", clock)
    return clock


def timed(clock, *units, budget=1000.0, expired=lambda: False):
    """Speed-ups of units given as (name, cache_key, fp32 seconds, integer seconds), and which of them were made."""
    made = []

    def unit(name, cache_key, fp32, integer):
        def forms():
            made.append(name)
            return clock.call(fp32), clock.call(integer)

        return TimedUnit(name, cache_key, f"{name} alone", forms)

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


def test_what_is_known_is_told_when_the_budget_is_spent(clock):
    speeds, made = timed(clock, ("a", "a", 2.0, 1.0), ("b", "b", 2.0, 1.0), budget=5.0)
    assert list(speeds) == made == ["a"]


def test_nothing_is_timed_when_the_time_of_the_run_is_over(clock):
    assert timed(clock, ("a", "a", 2.0, 1.0), expired=lambda: True) == ({}, [])


def test_what_was_measured_is_told(clock):
    unit = TimedUnit("a", "a", "Dense 16x16 on 8x16", lambda: (clock.call(2.0), clock.call(1.0)))
    (speed,) = time_units([unit], clock.perf_counter, shortest=0.0, budget=99.0, expired=lambda: False).values()
    assert speed.measured == "Dense 16x16 on 8x16"
