from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from inc_autotune.core.errors import ArgumentError, CalibrationError
from inc_autotune.core.quantization.affine import fake_quantize, quantization_parameters
from inc_autotune.core.quantization.histogram import BINS, Histogram
from inc_autotune.core.quantization.statistics import ActivationStatistics

NAMESPACES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]
REALS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
BATCHES = st.lists(arrays(np.float32, st.tuples(st.integers(0, 5), st.just(3)), elements=REALS), min_size=1, max_size=5)


def make(namespace: str, values: np.ndarray) -> Any:
    if namespace == "numpy":
        return values
    import torch

    return torch.tensor(values)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def collected(batches: list[np.ndarray], **arguments: Any) -> ActivationStatistics:
    statistics = ActivationStatistics("layer", **arguments)
    for batch in batches:
        statistics.update(batch)
    return statistics


def heavy_tailed(seed: int = 0) -> np.ndarray:
    """Mostly a unit Gaussian, with one value in ten thousand far out."""
    x = random(100_000, 1, seed=seed)
    x[:10] *= 60
    return x


@settings(max_examples=50, deadline=None)
@given(batches=BATCHES)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_ranges_are_exact_over_everything_seen(namespace: str, batches: list[np.ndarray]) -> None:
    statistics = collected([make(namespace, batch) for batch in batches], histogram=True)
    whole = np.concatenate(batches)
    assert statistics.count == len(whole)
    if len(whole) == 0:
        with pytest.raises(CalibrationError, match="layer: no activation was seen"):
            _ = statistics.minimum
        return
    np.testing.assert_array_equal(np.asarray(statistics.channel_minimum), whole.min(0))
    np.testing.assert_array_equal(np.asarray(statistics.channel_maximum), whole.max(0))
    np.testing.assert_array_equal(np.asarray(statistics.channel_absmax), np.abs(whole).max(0))
    assert (statistics.minimum, statistics.maximum) == (whole.min(), whole.max())
    assert statistics.histogram is not None
    assert statistics.histogram.counts.sum() == whole.size


@settings(max_examples=40, deadline=None)
@given(first=BATCHES, second=BATCHES)
def test_merge_is_the_same_as_seeing_both(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    both = collected([*first, *second], histogram=True)
    merged = collected(first, histogram=True)
    merged.merge(collected(second, histogram=True))
    assert merged.count == both.count
    if both.count:
        np.testing.assert_array_equal(merged.channel_minimum, both.channel_minimum)
        np.testing.assert_array_equal(merged.channel_maximum, both.channel_maximum)
    assert merged.histogram is not None
    assert both.histogram is not None
    np.testing.assert_array_equal(merged.histogram.counts, both.histogram.counts)


def test_zeros_alone_do_not_widen_a_histogram():
    whole, parts = Histogram(), Histogram()
    whole.update(np.array([0.0, 0.25], np.float32))
    parts.update(np.zeros(1, np.float32))
    parts.update(np.array([0.25], np.float32))
    assert whole.width == parts.width
    assert np.array_equal(whole.counts, parts.counts)


@settings(max_examples=40, deadline=None)
@given(
    values=arrays(
        np.float32,
        array_shapes(max_dims=1, max_side=60),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    cut=st.integers(0, 60),
    order=st.randoms(use_true_random=False),
)
def test_histogram_does_not_depend_on_batches_or_their_order(values: np.ndarray, cut: int, order: Any) -> None:
    whole, parts = Histogram(), Histogram()
    whole.update(values)
    shuffled = values.copy()
    order.shuffle(shuffled)
    parts.update(shuffled[:cut])
    parts.update(shuffled[cut:])
    assert whole.width == parts.width
    # Ranges more than 2**100 apart lose the sign of what is next to zero to underflow.
    np.testing.assert_array_equal(whole.counts[: BINS // 2 - 1], parts.counts[: BINS // 2 - 1])
    np.testing.assert_array_equal(whole.counts[BINS // 2 + 1 :], parts.counts[BINS // 2 + 1 :])
    assert whole.counts.sum() == parts.counts.sum() == values.size


def test_histogram_counts_like_numpy() -> None:
    histogram = Histogram()
    values = random(5000)
    for start in range(0, 5000, 700):
        histogram.update(values[start : start + 700])
    expected, _ = np.histogram(values.astype(np.float64), bins=histogram.edges)
    np.testing.assert_array_equal(histogram.counts, expected)


def test_channels_along_another_axis() -> None:
    images = random(2, 3, 4, 5)
    statistics = ActivationStatistics("conv", rows=1000)
    statistics.update(images, channel_axis=1)
    assert statistics.count == 2 * 4 * 5
    np.testing.assert_array_equal(statistics.channel_maximum, images.max((0, 2, 3)))
    np.testing.assert_array_equal(statistics.sampled_rows, np.moveaxis(images, 1, -1).reshape(-1, 3))


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_padding_counts_for_ranges_and_not_for_means(namespace: str) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    real = np.array([[True, True, False], [True, False, False]])

    statistics, other = ActivationStatistics("x"), ActivationStatistics("x")
    statistics.update(make(namespace, x), real=make(namespace, real))
    other.update(make(namespace, x[:1]), real=make(namespace, np.zeros((1, 3), bool)))
    np.testing.assert_allclose(np.asarray(other.channel_mean), 0)
    statistics.merge(other)
    np.testing.assert_allclose(np.asarray(statistics.channel_mean), x[real].mean(0))
    assert (statistics.minimum, statistics.maximum) == (0, 23)


def test_single_vector_is_one_token() -> None:
    statistics = collected([random(7)], rows=2)
    assert statistics.count == 1
    assert statistics.sampled_rows is not None
    assert statistics.sampled_rows.shape == (1, 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_not_finite_names_the_layer_and_changes_nothing(namespace: str, bad: float) -> None:
    good, poisoned = random(4, 3), random(4, 3)
    poisoned[2, 1] = bad
    statistics = ActivationStatistics("encoder.layer.3.dense", rows=2, histogram=True)
    statistics.update(make(namespace, good))
    with pytest.raises(
        CalibrationError, match=r"encoder\.layer\.3\.dense: NaN or infinity .*channel 1, after 4 tokens"
    ):
        statistics.update(make(namespace, poisoned))
    assert statistics.count == 4
    assert statistics.maximum == good.max()


def test_changed_number_of_channels_is_an_error() -> None:
    statistics = collected([random(4, 3)])
    with pytest.raises(CalibrationError, match="layer: the activation has 5 channels, earlier batches had 3"):
        statistics.update(random(4, 5))


def test_a_single_number_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="single number"):
        ActivationStatistics("layer").update(np.float32(1.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64"])
def test_other_dtypes_become_float32(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = (torch.tensor(random(20, 4)) * 10).to(getattr(torch, dtype))
    statistics = ActivationStatistics("layer", rows=8, histogram=True)
    statistics.update(x)
    assert statistics.channel_minimum.dtype == statistics.channel_maximum.dtype == torch.float32
    assert torch.equal(statistics.channel_minimum, x.float().amin(0))
    assert statistics.sampled_rows.dtype == torch.float32


def test_statistics_hold_no_autograd_graph() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(random(8, 4), requires_grad=True)
    statistics = ActivationStatistics("layer", rows=4, histogram=True)
    statistics.update(x * 2)
    assert not statistics.channel_minimum.requires_grad
    assert not statistics.sampled_rows.requires_grad


class TestSample:
    @settings(max_examples=30, deadline=None)
    @given(cuts=st.lists(st.integers(0, 40), max_size=4), rows=st.integers(1, 50), seed=st.integers(0, 5))
    def test_depends_on_tokens_not_on_batches(self, cuts: list[int], rows: int, seed: int) -> None:
        tokens = np.arange(40, dtype=np.float32)[:, None]
        whole = collected([tokens], rows=rows, seed=seed)
        parts = collected(np.split(tokens, sorted(cuts)), rows=rows, seed=seed)
        np.testing.assert_array_equal(parts.sampled_rows, whole.sampled_rows)
        assert whole.sampled_rows is not None
        assert whole.sampled_rows.shape == (min(rows, 40), 1)
        assert np.all(np.diff(whole.sampled_rows[:, 0]) > 0)

    @pytest.mark.parametrize("merged", [False, True])
    def test_is_uniform(self, merged: bool) -> None:
        tokens = np.arange(30, dtype=np.float32)[:, None]
        hits = np.zeros(30)
        repeats = 3000
        for seed in range(repeats):
            statistics = collected([tokens[:11], tokens[11:20]], rows=6, seed=seed)
            other = collected([tokens[20:]], rows=6, seed=seed + repeats)
            if merged:
                statistics.merge(other)
            else:
                statistics.update(tokens[20:])
            assert statistics.sampled_rows is not None
            hits[statistics.sampled_rows[:, 0].astype(int)] += 1
        expected = repeats * 6 / 30
        # Five standard deviations of a binomial.
        assert np.abs(hits - expected).max() < 5 * np.sqrt(expected * (1 - 6 / 30))

    def test_is_bounded_and_differs_by_seed(self) -> None:
        batches = [random(100, 3, seed=index) for index in range(20)]
        first, again = collected(batches, rows=16, seed=1), collected(batches, rows=16, seed=1)
        other = collected(batches, rows=16, seed=2)
        assert first.sampled_rows is not None
        assert first.sampled_rows.shape == (16, 3)
        np.testing.assert_array_equal(first.sampled_rows, again.sampled_rows)
        assert not np.array_equal(first.sampled_rows, other.sampled_rows)

    @pytest.mark.parametrize("namespace", NAMESPACES)
    def test_batches_can_be_left_out(self, namespace: str) -> None:
        statistics = ActivationStatistics("layer", rows=10)
        statistics.update(make(namespace, random(4, 2, seed=0)))
        statistics.update(make(namespace, random(4, 2, seed=1) + 100), keep_rows=False)
        assert statistics.count == 8
        assert statistics.maximum > 90
        np.testing.assert_array_equal(np.asarray(statistics.sampled_rows), random(4, 2, seed=0))

    def test_none_without_rows(self) -> None:
        assert collected([random(4, 2)]).sampled_rows is None

    def test_does_not_alias_the_batch(self) -> None:
        batch = random(4, 2)
        statistics = collected([batch], rows=10)
        batch[:] = 7
        assert statistics.sampled_rows is not None
        assert statistics.sampled_rows.max() < 7
        assert statistics.maximum < 7


def test_memory_does_not_grow_with_the_data() -> None:
    def size(statistics: ActivationStatistics) -> int:
        assert statistics.histogram is not None
        assert statistics.sampled_rows is not None
        assert statistics.sampled_rows.base is None
        return statistics.histogram.counts.nbytes + statistics.sampled_rows.nbytes + statistics._keys.nbytes

    few = collected([random(64, 8)], rows=32, histogram=True)
    many = collected([random(64, 8, seed=index) for index in range(50)], rows=32, histogram=True)
    assert size(few) == size(many)


def test_copy_is_a_snapshot_that_goes_on_the_same_way() -> None:
    statistics = collected([random(50, 3)], rows=8, histogram=True)
    snapshot = statistics.copy()
    before = (snapshot.count, snapshot.maximum, snapshot.sampled_rows.copy(), snapshot.histogram.counts.copy())  # type: ignore[union-attr]
    statistics.update(random(50, 3, seed=1) * 5)
    after = (snapshot.count, snapshot.maximum, snapshot.sampled_rows, snapshot.histogram.counts)  # type: ignore[union-attr]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    snapshot.update(random(50, 3, seed=1) * 5)
    np.testing.assert_array_equal(snapshot.sampled_rows, statistics.sampled_rows)
    np.testing.assert_array_equal(snapshot.histogram.counts, statistics.histogram.counts)  # type: ignore[union-attr]


def test_merge_needs_alike_statistics() -> None:
    with pytest.raises(CalibrationError, match="histogram"):
        collected([random(2, 3)], histogram=True).merge(collected([random(2, 3)]))
    with pytest.raises(CalibrationError, match="rows"):
        collected([random(2, 3)], rows=4).merge(collected([random(2, 3)], rows=2))
    with pytest.raises(CalibrationError, match="channels"):
        collected([random(2, 3)]).merge(collected([random(2, 4)]))


class TestRange:
    def test_minmax_is_exact_and_needs_no_histogram(self) -> None:
        x = random(100, 3)
        assert collected([x]).activation_range("minmax", "uint8", "asym") == (x.min(), x.max())

    @settings(max_examples=40, deadline=None)
    @given(
        x=arrays(np.float32, st.tuples(st.integers(1, 300), st.just(1)), elements=REALS),
        algorithm=st.sampled_from(["kl", "percentile", "mse"]),
        dtype=st.sampled_from(["uint8", "int8", "int4", "uint2", "int1"]),
        scheme=st.sampled_from(["sym", "asym"]),
    )
    def test_lies_within_the_data(self, x: np.ndarray, algorithm: str, dtype: str, scheme: str) -> None:
        low, high = collected([x], histogram=True).activation_range(algorithm, dtype, scheme)
        assert x.min() <= low <= high <= x.max()

    def test_percentile_keeps_the_promised_share(self) -> None:
        x = random(400_000, 1)
        low, high = collected([x], histogram=True).activation_range("percentile", "uint8", "asym")
        assert x.min() < low
        assert high < x.max()
        assert np.mean((x < low) | (x > high)) == pytest.approx(1e-5, rel=0.5)

    def test_symmetric_percentile_cuts_magnitudes(self) -> None:
        x = np.abs(heavy_tailed())
        low, high = collected([-x], histogram=True).activation_range("percentile", "int8", "sym")
        assert low == pytest.approx(-np.percentile(x, 99.999), rel=0.1)
        assert high == -x.min()

    @pytest.mark.parametrize(
        ("algorithm", "dtype", "scheme"),
        [("kl", "uint8", "asym"), ("kl", "int8", "sym"), ("mse", "int4", "sym"), ("mse", "uint4", "asym")],
    )
    def test_outliers_are_cut_and_the_error_of_most_values_falls(self, algorithm: str, dtype: str, scheme: str) -> None:
        x = heavy_tailed()
        statistics = collected([x], histogram=True)
        clipped = statistics.activation_range(algorithm, dtype, scheme)
        whole = statistics.activation_range("minmax", dtype, scheme)
        assert clipped[1] - clipped[0] < 0.7 * (whole[1] - whole[0])

        def median_error(bounds: tuple[float, float]) -> float:
            parameters = quantization_parameters(*bounds, dtype=dtype, scheme=scheme)
            return float(np.median(np.abs(fake_quantize(x, parameters) - x)))

        assert median_error(clipped) < median_error(whole)

    @pytest.mark.parametrize(("dtype", "scheme"), [("uint8", "asym"), ("int8", "sym"), ("uint4", "asym")])
    def test_zeros_do_not_narrow_the_range(self, dtype: str, scheme: str) -> None:
        """Zero is an integer of every range, so a ReLU's zeros say nothing about where to cut."""
        x = np.abs(random(50_000, 1))
        seen, among_zeros = (collected([each], histogram=True) for each in (x, np.concatenate([x, 0 * x])))
        expected = seen.activation_range("kl", dtype, scheme)[1]
        assert among_zeros.activation_range("kl", dtype, scheme)[1] == pytest.approx(expected, rel=0.05)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint4", "int3"])
    @pytest.mark.parametrize("scheme", ["sym", "asym"])
    @pytest.mark.parametrize("framework", ["pytorch", "onnxruntime"])
    def test_mse_is_not_worse_than_minmax_or_kl(self, dtype: str, scheme: str, framework: str) -> None:
        x = random(20_000, 1)
        x[x < 0] *= 0.05
        statistics = collected([x], histogram=True)
        errors = {}
        for algorithm in ("minmax", "kl", "mse"):
            bounds = statistics.activation_range(algorithm, dtype, scheme, framework=framework)
            parameters = quantization_parameters(*bounds, dtype=dtype, scheme=scheme, framework=framework)
            errors[algorithm] = float(((fake_quantize(x, parameters) - x) ** 2).mean())
        assert errors["mse"] <= errors["minmax"] * 1.01
        assert errors["mse"] <= errors["kl"] * 1.05

    @pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
    @pytest.mark.parametrize("algorithm", ["minmax", "kl", "percentile", "mse"])
    def test_constant_activation(self, value: float, algorithm: str) -> None:
        statistics = collected([np.full((10, 2), value, np.float32)], histogram=True)
        assert statistics.activation_range(algorithm, "uint8", "asym") == (value, value)

    def test_clipping_without_a_histogram_is_an_error(self) -> None:
        with pytest.raises(CalibrationError, match="layer: algorithm 'kl' needs a histogram"):
            collected([random(4, 2)]).activation_range("kl", "uint8", "asym")

    def test_unknown_algorithm_is_an_error(self) -> None:
        with pytest.raises(ArgumentError, match="Did you mean 'percentile'"):
            collected([random(4, 2)], histogram=True).activation_range("percentil", "uint8", "asym")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_shifted_statistics_are_those_of_the_shifted_activation(namespace: str) -> None:
    batches = [random(40, 3, seed=seed) + np.asarray([5.0, 0.0, -9.0], np.float32) for seed in range(3)]
    known = collected([make(namespace, batch) for batch in batches], rows=16, seed=1)
    shift = known.channel_middle
    expected = collected([batch - np.asarray(shift) for batch in batches], rows=16, seed=1)
    found = known.shifted(shift)
    for name in ("channel_minimum", "channel_maximum", "channel_mean", "channel_absmax", "sampled_rows"):
        np.testing.assert_allclose(np.asarray(getattr(found, name)), getattr(expected, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found.channel_middle), 0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(known.channel_middle), np.asarray(shift))
