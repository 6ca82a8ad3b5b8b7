"""One pass over the calibration data, as an extension goes through it."""

import numpy as np
import pytest

from inc_autotune.core.data.calibration import CalibrationPass
from inc_autotune.core.errors import DataError
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.graphs.feed import Feed


def passed(*sizes, sampling_sizes=(100,), overwrites=False):
    """The pass of a model that returns its input, over batches of numbered samples; every one its own range."""
    run: CalibrationPass[Feed] = CalibrationPass(
        lambda seed: {"x": ActivationStatistics("x", rows=8, seed=seed)},
        lambda batch, outputs: list(outputs),
        sampling_sizes,
        seed=0,
    )
    first = 0
    for size in sizes:
        values = np.arange(first, first + size, dtype=np.float32)[:, None]
        first += size
        run.begin(Feed({"x": values}, size, frozenset({"x"})))
        run.statistics["x"].update(values, keep_rows=not run.is_held_out)
        outputs = [values.copy()]
        if overwrites:
            values[:] = -1
        run.end(outputs)
    return run


def test_the_second_batch_is_held_out_and_the_first_stands_in_until_it_comes():
    one, two = passed(4).finish("", "data"), passed(4, 4).finish("", "data")
    assert [each.held_out.outputs[0].ravel().tolist() for each in (one, two)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert one.held_out.notes
    assert not two.held_out.notes
    assert float(two.snapshot().fitted["x"].maximum) == 3
    assert float(two.snapshot().every["x"].maximum) == 7


def test_rows_are_those_of_samples_that_are_not_held_out():
    snapshot = passed(4, 4, 4, 4, 4).finish("", "data").snapshot()
    rows = {float(row) for fold in snapshot.crossed("x") for row in np.asarray(fold.sampled_rows).ravel()}
    assert rows == {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19}


def test_a_model_may_write_into_its_inputs():
    found = passed(4, 30, overwrites=True).finish("", "data")
    (kept,) = found.held_out.batches
    assert kept.inputs["x"].ravel().tolist() == list(range(4, 20))
    assert found.held_out.outputs[0].ravel().tolist() == list(range(4, 20))


def test_samples_and_snapshots_are_told():
    found = passed(4, 4, 4, sampling_sizes=(8, 100)).finish("abc", "data")
    assert (found.samples, found.digest) == (12, "abc")
    assert float(found.snapshot(8).every["x"].maximum) == 7
    assert float(found.snapshot(100).every["x"].maximum) == 11
    assert float(found.snapshot().every["x"].maximum) == 11


@pytest.mark.parametrize("sizes", [(), (0,)])
def test_no_sample_is_an_error(sizes):
    with pytest.raises(DataError, match="calib_dataset is empty: it yielded no sample"):
        passed(*sizes).finish("", "calib_dataset")


def test_steps_of_the_same_samples_count_once_and_are_held_out_together():
    run = passed(sampling_sizes=(4,))
    for item in range(3):
        for step in range(6):
            values = np.full((4, 1), 10.0 * item + step, np.float32)
            run.begin(Feed({"x": values}, 4, frozenset({"x"})), continues=step > 0)
            assert run.is_held_out == (item == 1)
            run.statistics["x"].update(values, keep_rows=not run.is_held_out)
            run.end([values])
    assert run.samples == 12
    found = run.finish("", "data")
    assert found.samples == 12
    assert float(found.snapshot(4).every["x"].maximum) == 5
    assert float(found.snapshot().fitted["x"].maximum) == 25
    assert [float(each[0, 0]) for each in found.held_out.outputs] == [10, 11, 12, 14]
    assert found.held_out.samples == 4
