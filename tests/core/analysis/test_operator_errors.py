"""The sums that operators are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.core.analysis.operator_errors import ComparedOperator, OperatorError, Recorder, operator_errors
from inc_autotune.core.quantization import signal_to_noise_db

GENERATOR = np.random.default_rng(0)


def compared(operator: ComparedOperator, *pairs: tuple[Any, Any]) -> OperatorError:
    recorder = Recorder([operator])
    for expected, actual in pairs:
        recorder.add_output(operator.name, expected, actual)
    (error,) = recorder.errors()
    return error


@settings(deadline=None, max_examples=30)
@given(parts=st.integers(1, 6), noise=st.floats(1e-3, 1))
def test_sums_over_batches_are_those_of_all_values(parts: int, noise: float) -> None:
    expected = GENERATOR.normal(size=(12, 5)).astype(np.float32)
    actual = expected + np.float32(noise) * GENERATOR.normal(size=expected.shape).astype(np.float32)
    pieces = zip(np.array_split(expected, parts), np.array_split(actual, parts), strict=True)
    error = compared(ComparedOperator("a", "Linear", "int8 static", -1), *pieces)
    assert error.sqnr == pytest.approx(signal_to_noise_db(expected, actual))
    cosine = (expected * actual).sum() / np.linalg.norm(expected) / np.linalg.norm(actual)
    assert error.cosine == pytest.approx(cosine, rel=1e-5)
    by_channel = [signal_to_noise_db(expected[:, index], actual[:, index]) for index in range(5)]
    assert [channel for channel, _ in error.worst_channels] == np.argsort(by_channel).tolist()
    assert [ratio for _, ratio in error.worst_channels] == pytest.approx(sorted(by_channel))
    assert error.histogram is not None
    assert sum(error.histogram.fp32) == sum(error.histogram.quantized) == expected.size


def test_channels_of_a_convolution_are_its_second_axis() -> None:
    expected = GENERATOR.normal(size=(2, 3, 4, 4)).astype(np.float32)
    actual = expected.copy()
    actual[:, 1] += 0.5
    error = compared(ComparedOperator("a", "Conv2d", "int8 static", 1), (expected, actual))
    assert error.worst_channels[0][0] == 1
    assert [ratio for _, ratio in error.worst_channels[1:]] == [math.inf] * 2


def test_equal_outputs_and_dead_ones() -> None:
    operator = ComparedOperator("a", "Linear", "fp32")
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert compared(operator, (ones, ones)).sqnr == math.inf
    assert compared(operator, (zeros, zeros)).cosine == 1
    assert compared(operator, (zeros, ones)).sqnr == -math.inf
    masked = np.asarray([[-1e30, 1]], np.float32)
    assert compared(operator, (masked, np.asarray([[-3e30, 1]], np.float32))).sqnr == math.inf


def test_ranges_and_saturation_are_of_the_smoothed_input() -> None:
    scale = np.asarray([1, 2], np.float32)
    recorder = Recorder([ComparedOperator("a", "Linear", "int8 static", -1, (-1.0, 1.0), scale)])
    recorder.add_input("a", np.asarray([[0.5, 2.0], [1.5, -1.0]], np.float32))
    recorder.add_output("a", np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
    (error,) = recorder.errors()
    assert error.observed == (-0.5, 1.5)
    assert error.saturated == 1 / 4
    assert error.calibrated == (-1, 1)


def test_padding_and_what_cannot_be_compared_is_left_out() -> None:
    recorder = Recorder([ComparedOperator(name, "Linear", "int8 static", -1) for name in ("a", "b", "c")])
    recorder.real = np.asarray([[True, False]])
    expected = np.asarray([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    actual = expected + np.asarray([[[0, 0], [9, 9]]], np.float32)
    recorder.add_output("a", expected, actual)
    recorder.add_output("b", expected, actual[:, :1])
    (error,) = recorder.errors()
    assert (error.name, error.sqnr) == ("a", math.inf)
    assert recorder.missed == ("b", "c")


class Pair:
    """Two layers of known size."""

    operators: Sequence[ComparedOperator] = tuple(ComparedOperator(name, "Linear", "int8 static") for name in "abc")

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def sizes(self, item: Any) -> Mapping[str, int]:
        return {"a": 60, "b": 60, "c": 30}

    def record(self, item: Any, names: Sequence[str], recorder: Recorder) -> None:
        self.asked.append(tuple(names))
        for name in names:
            recorder.add_output(name, item, item)


def test_a_batch_is_run_for_some_operators_at_a_time_where_memory_is_short() -> None:
    items = [np.ones(3, np.float32)] * 2
    pair = Pair()
    assert len(operator_errors(pair, items, most_bytes=100).errors()) == 3
    assert pair.asked == [("a",), ("b", "c")] * 2
    pair = Pair()
    operator_errors(pair, items)
    assert pair.asked == [("a", "b", "c")] * 2
