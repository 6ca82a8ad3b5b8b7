"""Statistics by what their samples are for."""

import numpy as np
import pytest

from inc_autotune.core.quantization.split_statistics import Snapshots, SplitStatistics
from inc_autotune.core.quantization.statistics import ActivationStatistics


def collected(*batches):
    """Statistics of one activation; a batch is (largest value, whether it is held out)."""
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", rows=8, seed=seed)}, (0, 1))
    for largest, held_out in batches:
        values = np.array([[0.0, largest]], np.float32)
        statistics.batch(held_out=held_out)["x"].update(values, keep_rows=not held_out)
    return statistics.snapshot()


def test_ranges_to_compare_with_have_not_seen_what_is_held_out():
    snapshot = collected((1.0, False), (9.0, True), (2.0, False))
    assert float(snapshot.statistics(without_held_out=False)["x"].maximum) == 9.0
    assert float(snapshot.statistics(without_held_out=True)["x"].maximum) == 2.0


def test_folds_lend_each_other_their_rows():
    snapshot = collected((1.0, False), (9.0, True), (2.0, False), (3.0, False))
    ranges = sorted(float(each.maximum) for each in snapshot.crossed("x"))
    assert ranges == [2.0, 3.0]
    rows = {float(each.maximum): float(each.sampled_rows.max()) for each in snapshot.crossed("x")}
    assert rows == {2.0: 3.0, 3.0: 2.0}


def test_one_batch_is_no_two_folds():
    assert collected((1.0, False)).crossed("x") == ()


def test_what_only_held_out_samples_reached_is_known_by_them():
    snapshot = collected((4.0, True))
    assert float(snapshot.fitted["x"].maximum) == 4.0


def test_a_snapshot_does_not_change_with_later_batches():
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", rows=8, seed=seed)}, (0, 1))
    statistics.batch(held_out=False)["x"].update(np.ones((1, 2), np.float32))
    before = statistics.snapshot()
    statistics.batch(held_out=False)["x"].update(np.full((1, 2), 5.0, np.float32))
    assert float(before.every["x"].maximum) == 1.0
    assert float(statistics.snapshot().every["x"].maximum) == 5.0


def test_moving_statistics_changes_nothing():
    def filled(compact):
        statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", rows=4, seed=seed)}, (0, 1))
        for index in range(9):
            values = np.random.default_rng(index).normal(size=(5, 2)).astype(np.float32)
            statistics.batch(held_out=index % 3 == 1)["x"].update(values, keep_rows=index % 3 != 1)
            if compact:
                statistics.compact()
        return statistics.snapshot()

    plain, moved = filled(False), filled(True)
    for one, other in zip(plain.crossed("x"), moved.crossed("x"), strict=True):
        np.testing.assert_array_equal(one.sampled_rows, other.sampled_rows)
        np.testing.assert_array_equal(one.channel_maximum, other.channel_maximum)
    np.testing.assert_array_equal(plain.every["x"].channel_minimum, moved.every["x"].channel_minimum)


def snapshots(sizes, *batches):
    """Snapshots after batches of these sizes; the largest value seen is the number of samples so far."""
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", seed=seed)}, (0, 1))
    taken, seen = Snapshots(sizes), 0
    for size in batches:
        seen += size
        statistics.batch(held_out=False)["x"].update(np.array([[float(seen)]], np.float32))
        taken.advance(size, statistics)
    taken.finish(statistics)
    return taken


def known(taken, size):
    return float(taken.at(size).every["x"].maximum)


def test_each_sampling_size_has_a_snapshot():
    taken = snapshots([8, 16], 4, 4, 8)
    assert [known(taken, size) for size in (8, 16)] == [8, 16]
    assert taken.samples == 16


def test_a_sampling_size_inside_a_batch_ends_with_the_batch():
    taken = snapshots([6, 7, 16], 4, 4, 8)
    assert [known(taken, size) for size in (6, 7, 8, 16)] == [8, 8, 8, 16]


@pytest.mark.parametrize(("size", "expected"), [(1, 8), (9, 20), (10, 20), (20, 20), (100, 20)])
def test_a_size_without_a_snapshot_has_that_of_more_samples_or_of_all(size, expected):
    assert known(snapshots([8, 100], 4, 4, 12), size) == expected


def test_what_comes_after_the_largest_sampling_size_is_known_of_all_samples_only():
    taken = snapshots([8], 8, 12)
    assert [known(taken, size) for size in (8, 20)] == [8, 20]


def test_the_first_batch_belongs_to_the_first_fold():
    snapshot = collected((1.0, False), (9.0, True), (2.0, False), (3.0, False))
    assert [float(fold["x"].maximum) for fold in snapshot.folds] == [3.0, 2.0]


def test_an_activation_that_is_watched_later_is_known_at_every_size():
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", seed=seed)}, (0, 1))
    taken = Snapshots([4, 8])
    for step in range(2):
        if step:
            statistics.watch(lambda seed: {each: ActivationStatistics(each, seed=seed) for each in "xy"})
        for each in statistics.batch(held_out=False).values():
            each.update(np.full((4, 1), step + 1.0, np.float32))
        taken.advance(4, statistics)
    taken.finish(statistics)
    assert known(taken, 4) == 1
    for size in (4, 8):
        snapshot = taken.at(size)
        assert float(snapshot.every["y"].maximum) == float(snapshot.fitted["y"].maximum) == 2
        assert all("y" in fold for fold in snapshot.folds)
