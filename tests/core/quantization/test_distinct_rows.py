"""Whether sampled rows tell how channels vary."""

import numpy as np
import pytest

from inc_autotune.core.quantization.distinct_rows import rows_repeat
from inc_autotune.core.quantization.statistics import ActivationStatistics

GENERATOR = np.random.default_rng(0)


def of(rows):
    statistics = ActivationStatistics("x", rows=64)
    statistics.update(np.asarray(rows, np.float32))
    return statistics


def normal(count, channels=32):
    return GENERATOR.normal(size=(count, channels)) * np.linspace(0.1, 30, channels)


@pytest.mark.parametrize("count", [1, 2, 8, 64, 500])
def test_different_rows_do_not_repeat_however_few_and_whatever_their_scale(count):
    assert not rows_repeat(of(normal(count)))


def test_one_large_channel_that_is_the_same_everywhere_does_not_hide_the_others():
    rows = normal(64)
    rows[:, 3] = 1e4
    assert not rows_repeat(of(rows))


@pytest.mark.parametrize("distinct", [1, 6, 15])
def test_rows_that_repeat_a_few_are_found_with_a_little_noise(distinct):
    rows = np.repeat(normal(distinct), 64 // distinct, axis=0)
    assert rows_repeat(of(rows * (1 + 1e-3 * GENERATOR.normal(size=rows.shape))))


def test_every_row_twice_is_no_repetition():
    assert not rows_repeat(of(np.repeat(normal(16), 2, axis=0)))


def test_nothing_is_said_without_rows():
    statistics = ActivationStatistics("x")
    statistics.update(np.ones((8, 4), np.float32))
    assert not rows_repeat(statistics)
