"""Statistics of parts of the data, merged: the same as those of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inc_autotune.core.quantization.second_moment import SecondMoment
from inc_autotune.core.quantization.statistics import ActivationStatistics

CHANNELS = 3
values = st.tuples(st.integers(-(2**23), 2**23), st.integers(-30, 6)).map(lambda parts: parts[0] * 2.0 ** parts[1])
"""Numbers of float32 over eleven orders of magnitude."""
batches = st.lists(
    st.integers(1, 4).flatmap(lambda rows: arrays(np.float32, (rows, CHANNELS), elements=values)),
    min_size=1,
    max_size=9,
)


def of(batches: list[Any], seed: int = 0) -> ActivationStatistics:
    statistics = ActivationStatistics("x", rows=4, seed=seed, histogram=True)
    for batch in batches:
        statistics.update(batch)
    return statistics


@settings(max_examples=60, deadline=None)
@given(batches=batches, count=st.integers(1, 5), order=st.randoms(use_true_random=False))
def test_ranges_means_and_counts_are_exactly_those_of_one_process(batches: Any, count: int, order: Any) -> None:
    one = of(batches)
    parts = [of(batches[index::count], seed=index) for index in range(count)]
    order.shuffle(parts)
    # Through files, as they travel.
    merged = ActivationStatistics.from_arrays(*parts[0].to_arrays())
    for part in parts[1:]:
        merged.merge(ActivationStatistics.from_arrays(*part.to_arrays()))
    assert merged.count == one.count
    for name in ("channel_minimum", "channel_maximum", "channel_mean"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(one, name))
    for algorithm in ("minmax", "percentile", "kl", "mse"):
        assert merged.activation_range(algorithm, "uint8", "asym") == one.activation_range(algorithm, "uint8", "asym")
    rows = {tuple(row) for batch in batches for row in batch.tolist()}
    assert {tuple(row) for row in merged.sampled_rows.tolist()} <= rows
    assert len(merged.sampled_rows) == min(4, one.count)


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays(np.float32, (12, 6), elements=st.floats(-8, 8, width=32)),
    count=st.integers(1, 5),
    groups=st.sampled_from([1, 2, 3]),
)
def test_second_moments_are_those_of_one_process_but_for_rounding(rows: Any, count: int, groups: int) -> None:
    def moment(part: Any) -> SecondMoment:
        found = SecondMoment(6 // groups, groups)
        found.update(part)
        return found

    one, merged = moment(rows), SecondMoment(6 // groups, groups)
    for index in range(count):
        part = moment(rows[index::count])
        merged.merge(SecondMoment.of(part.columns, part.groups, part.rows, part.sums, part.total))
    assert merged.rows == one.rows
    for (*_, found), (*_, expected) in zip(merged.blocks(), one.blocks(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_merging_leaves_the_parts_as_they_are() -> None:
    first, second = of([np.ones((2, CHANNELS), np.float32)]), of([np.full((2, CHANNELS), 2.0, np.float32)], seed=1)
    copy = second.copy()
    first.merge(second)
    first.update(np.full((2, CHANNELS), 9.0, np.float32))
    assert float(second.maximum) == 2.0
    np.testing.assert_array_equal(second.channel_mean, copy.channel_mean)
    moment = SecondMoment(2)
    moment.update(np.ones((3, 2), np.float32))
    other = SecondMoment(2)
    other.merge(moment)
    other.update(np.ones((3, 2), np.float32))
    assert moment.sums[0][0, 0] == pytest.approx(3.0)
