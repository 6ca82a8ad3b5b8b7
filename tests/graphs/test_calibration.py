"""One pass over the calibration data, on models that are functions of the test's own."""

import numpy as np
import pytest

from inc_autotune.core.errors import CalibrationError, DataError
from inc_autotune.graphs.calibration import Values, WatchedTensor, batch_error, calibrate
from inc_autotune.graphs.feed import Feed

WATCHED = (WatchedTensor("x", rows=True, histogram=False), WatchedTensor("y", rows=False, histogram=False))


def twice(feed, samples=0):
    x = feed.inputs["x"]
    return Values([2 * x], {"x": x, "y": 2 * x})


def batches(*sizes, divisible=True):
    """Batches [size, 2] of float32, whose samples are numbered through."""
    ends = np.cumsum(sizes)
    names = frozenset({"x"} if divisible else ())
    return [
        Feed({"x": np.arange(2 * (end - size), 2 * end, dtype=np.float32).reshape(size, 2)}, size, names)
        for size, end in zip(sizes, ends.tolist(), strict=True)
    ]


def calibrated(feeds, sizes):
    return calibrate(twice, WATCHED, feeds, sizes, seed=0, argument="data")


def largest(calibration, size):
    return float(calibration.snapshot(size).every["x"].maximum)


def test_a_snapshot_has_seen_the_samples_of_its_size():
    calibration = calibrated(batches(*(10,) * 10), [20, 55, 100])
    assert [largest(calibration, size) for size in (20, 55, 100)] == [39.0, 109.0, 199.0]
    assert calibration.samples == 100


@pytest.mark.parametrize(("size", "seen"), [(1, 20), (21, 55), (56, 100), (101, 100), (5000, 100)])
def test_a_size_without_a_snapshot_gets_the_next_larger_one_or_all_samples(size, seen):
    assert largest(calibrated(batches(*(10,) * 10), [20, 55, 100]), size) == 2 * seen - 1


def test_fewer_samples_than_asked_for_are_kept_under_their_number():
    calibration = calibrated(batches(10, 10), [100])
    assert calibration.samples == 20
    assert largest(calibration, 100) == largest(calibration, 20) == 39.0


def test_a_sampling_size_ends_with_the_batch_that_reaches_it_where_batches_cannot_be_cut():
    calibration = calibrated(batches(*(8,) * 5, divisible=False), [20])
    assert largest(calibration, 20) == 47.0


def test_outputs_of_held_out_samples_are_kept_for_comparisons():
    calibration = calibrated(batches(*(10,) * 10), [100])
    for feed, output in zip(calibration.held_out.batches, calibration.held_out.outputs, strict=True):
        np.testing.assert_array_equal(output, 2 * feed.inputs["x"])


def test_the_digest_is_of_the_inputs():
    first, again = (calibrated(batches(10, 10, 10), [30]).digest for _ in range(2))
    assert first == again
    assert calibrated(batches(10, 10, 11), [31]).digest != first


def test_no_sample_is_an_error_that_names_the_argument():
    with pytest.raises(DataError, match=r"data is empty: it yielded no sample\. Give at least one batch\."):
        calibrated([], [10])


def test_an_error_tells_the_batch_its_place_and_the_remedy():
    (feed,) = batches(3)
    error = batch_error("data", feed, 7, ValueError("odd"))
    assert str(error) == (
        "data: the model fails on the batch x float32 [3, 2], which comes after 7 samples: ValueError: odd\n"
        "Give all batches the form and the feature shapes of the first one."
    )


def seen(values, tensor):
    """Calibration of one tensor whose value is another one in every batch."""
    left = iter(values)

    def run(feed, samples):
        value = next(left)
        return Values([value], {tensor.name: value})

    return calibrate(run, [tensor], batches(*(1,) * len(values)), [len(values)], seed=0, argument="data")


@pytest.mark.parametrize("histogram", [False, True])
def test_a_tensor_with_one_range_may_have_any_shape(histogram):
    values = [np.full(shape, number, np.float32) for number, shape in enumerate([(1, 7, 2), (1, 3, 2), (2, 5), ()])]
    found = seen(values, WatchedTensor("y", rows=False, histogram=histogram, channel_axis=None)).snapshot().every["y"]
    assert (found.minimum, found.maximum, found.count) == (0.0, 3.0, 14 + 6 + 10 + 1)


def test_a_tensor_with_channels_must_keep_their_number():
    values = [np.zeros((1, 7, 2), np.float32), np.zeros((1, 7, 3), np.float32)]
    with pytest.raises(CalibrationError, match="y: the activation has 3 channels, earlier batches had 2"):
        seen(values, WatchedTensor("y", rows=False, histogram=False))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel_axis", [-1, 1, None])
def test_rows_that_are_not_finite_are_left_out_and_told(bad, channel_axis):
    value = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    value[1, 1, 2] = bad  # the row of it is [9, 10, 11] along the last axis, [8, 11] along axis 1
    found = seen([np.ones((1, 2, 3), np.float32), value], WatchedTensor("y", False, False, channel_axis))
    assert found.unfit == {"y": "'y' holds NaN or infinity in the calibration data, which integers cannot"}
    assert found.snapshot().every["y"].maximum == {-1: 8.0, 1: 10.0, None: 10.0}[channel_axis]


def test_a_tensor_without_elements_is_told():
    found = seen([np.ones((1, 0, 3), np.float32)] * 2, WatchedTensor("y", rows=True, histogram=False))
    assert found.unfit == {"y": "'y' never had an element in the calibration data, so it has no range"}
    found = seen([np.ones((1, size, 3), np.float32) for size in (0, 2)], WatchedTensor("y", True, False))
    assert found.unfit == {}


def test_other_tensors_are_not_named():
    assert calibrated(batches(10, 10), [20]).unfit == {}
