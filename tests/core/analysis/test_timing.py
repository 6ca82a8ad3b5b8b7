"""Times of calls that are compared, on a clock of the test's own."""

import itertools
from types import SimpleNamespace

import pytest

from inc_autotune.core.analysis import timing


class Clock:
    """A clock on which calls take what the test says, whatever the machine is doing."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    thread_time = perf_counter


class Timed:
    """Takes the given seconds, one a call; the last is repeated."""

    def __init__(self, clock, *seconds):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self):
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_rounds_that_agree_end_the_measurement(clock):
    slow, fast = Timed(clock, 9.0, 0.2), Timed(clock, 9.0, 0.1)
    assert timing.interleaved_seconds([slow, fast], clock.perf_counter) == pytest.approx([0.2, 0.1])
    # Beyond the budget because of the warm-up: two rounds are the least.
    assert (slow.calls, fast.calls) == (3, 3)
    slow, fast = Timed(clock, 0.2), Timed(clock, 0.1)
    timing.interleaved_seconds([slow, fast], clock.perf_counter)
    assert (slow.calls, fast.calls) == (4, 4)


def test_a_disturbed_measurement_is_repeated_and_the_fastest_round_counts(clock):
    steady, disturbed = Timed(clock, 0.01), Timed(clock, 0.05, 0.04, 0.03, 0.025, 0.02, 0.02)
    assert timing.interleaved_seconds([steady, disturbed], clock.perf_counter) == pytest.approx([0.01, 0.02])
    assert steady.calls == disturbed.calls == 6


@pytest.mark.parametrize(("clock", "expected"), [(timing.thread_clock, 1.0), (timing.wall_clock, 5.0)])
def test_other_jobs_do_not_count_where_one_thread_computes(clock, expected, monkeypatch):
    readings = {"thread_time": iter([3.0, 4.0]).__next__, "perf_counter": iter([10.0, 15.0]).__next__}
    monkeypatch.setattr(timing, "time", SimpleNamespace(**readings))
    assert timing.seconds(lambda: None, clock()) == expected


def test_a_busy_machine_leaves_as_many_rounds(clock, monkeypatch):
    """The budget is spent on the clock of the calls, not on the wall."""
    monkeypatch.setattr(clock, "perf_counter", itertools.count(0.0, 100.0).__next__, raising=False)
    first, second = (Timed(clock, *(0.3 - 0.02 * each for each in range(9))) for _ in range(2))
    timing.interleaved_seconds([first, second], clock.thread_time)
    assert first.calls == 7


def measured_pair(clock, fp32, integer, **options):
    fp32, integer = Timed(clock, *fp32), Timed(clock, *integer)
    pair = timing.pair_seconds(fp32, integer, clock.perf_counter, **({"shortest": 0.0002} | options))
    return None if pair.is_short else pair.fp32 / pair.integer, integer.calls - 1


def test_a_clear_difference_takes_few_pairs(clock):
    assert measured_pair(clock, [0.003], [0.001]) == (pytest.approx(3.0), timing.CLEAR_PAIRS)
    assert measured_pair(clock, [0.001], [0.003]) == (pytest.approx(1 / 3), timing.CLEAR_PAIRS)


def test_a_close_one_takes_many_and_the_fast_calls_decide(clock):
    """Other jobs make calls longer, of either form; the calls that they did not hit show which is faster."""
    noisy = [0.00105, 0.00125, 0.00104, 0.0014] * 20
    ratio, pairs = measured_pair(clock, noisy, [0.0015, 0.001, 0.0015] * 30)
    assert pairs == timing.MOST_PAIRS
    assert ratio == pytest.approx(1.04)
    assert measured_pair(clock, [0.00125], [0.0016, 0.0015, 0.0017] * 30)[0] == pytest.approx(1.25 / 1.5)


def test_a_clock_that_is_late_once_does_not_decide(clock):
    ratio, _ = measured_pair(clock, [*[0.00102] * 20, 0.0001, 0.00102], [0.0012])
    assert ratio == pytest.approx(0.85)


def test_a_few_pairs_that_agree_by_chance_do_not_decide(clock):
    """Other jobs hit the integer form alone, nearly as often as it takes."""
    ratio, pairs = measured_pair(clock, [0.00125], [0.001, *[0.0025] * 6, 0.001])
    assert ratio == pytest.approx(1.25)
    assert pairs == timing.MOST_PAIRS


def test_the_end_of_the_time_ends_a_close_one(clock):
    assert measured_pair(clock, [0.001], [0.001], ended=lambda: True)[1] == timing.FEWEST_PAIRS


def test_what_is_too_short_to_matter_is_not_measured_on(clock):
    assert measured_pair(clock, [0.001], [0.003, 0.001], shortest=0.002) == (None, timing.CLEAR_PAIRS)
