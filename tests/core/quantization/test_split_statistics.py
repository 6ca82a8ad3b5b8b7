"""Statistics by what their samples are for."""

import numpy as np

from inc_autotune.core.quantization.split_statistics import SplitStatistics
from inc_autotune.core.quantization.statistics import ActivationStatistics


def collected(*batches):
    """Statistics of one activation; a batch is (largest value, whether it is held out)."""
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", rows=8, seed=seed)}, 0)
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
    statistics = SplitStatistics(lambda seed: {"x": ActivationStatistics("x", rows=8, seed=seed)}, 0)
    statistics.batch(held_out=False)["x"].update(np.ones((1, 2), np.float32))
    before = statistics.snapshot()
    statistics.batch(held_out=False)["x"].update(np.full((1, 2), 5.0, np.float32))
    assert float(before.every["x"].maximum) == 1.0
    assert float(statistics.snapshot().every["x"].maximum) == 5.0
