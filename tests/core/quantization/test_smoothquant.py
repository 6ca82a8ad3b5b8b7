from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inc_autotune.core.errors import ArgumentError, CalibrationError
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import fake_quantize, quantization_parameters
from inc_autotune.core.quantization.smoothquant import (
    AlphaSearchResult,
    InputGroup,
    alpha_grid,
    choose_alpha,
    group_weight_absmax,
    search_alpha,
    smoothed_range,
    smoothing_scale,
)
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.quantization.weight_grid import weight_parameters

NAMESPACES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]
WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")
ACTIVATION = TensorConfig("uint8", "asym", "per_tensor", "minmax")
INT8 = OpConfig(WEIGHT, ACTIVATION, "static")
ALPHAS = alpha_grid(0, 1, 0.1)
CHANNELS = 24
ABSMAX = arrays(np.float32, 12, elements=st.floats(0, 2.0**120, width=32) | st.sampled_from([0.0, 1e-42, 1e-20, 3e38]))


def make(namespace: str, values: np.ndarray) -> Any:
    if namespace == "numpy":
        return values
    import torch

    return torch.tensor(values)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_outliers(tokens: int, seed: int = 0, factor: float = 30.0) -> np.ndarray:
    """Activations as transformers have them: a few channels much larger than the rest."""
    x = random(tokens, CHANNELS, seed=seed)
    x[:, [3, 11]] *= factor
    return x


def statistics_of(batches: list[Any], **arguments: Any) -> ActivationStatistics:
    statistics = ActivationStatistics("input", **{"rows": 10_000, **arguments})
    for batch in batches:
        statistics.update(batch)
    return statistics


def group_of(
    statistics: ActivationStatistics,
    weights: list[Any],
    configs: OpConfig | tuple[OpConfig, ...] = INT8,
    **arguments: Any,
) -> InputGroup:
    names = tuple(f"operator{index}" for index in range(len(weights)))
    if isinstance(configs, OpConfig):
        configs = (configs,) * len(weights)
    return InputGroup("group", names, statistics, lambda: weights, configs, **arguments)


def integer_product(x: Any, w: Any) -> Any:
    """What an int8 kernel does; refuses what would not fit it."""
    for operand in (x, w):
        values = np.asarray(operand)
        assert np.array_equal(values, np.round(values))
        assert values.min() >= -128
        assert values.max() <= 127
    result = np.asarray(x).astype(np.int32) @ np.asarray(w).astype(np.int32).T
    return result.astype(np.float32) if isinstance(x, np.ndarray) else make("torch", result.astype(np.float32))


def loss_by_definition(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    config: OpConfig,
    statistics: ActivationStatistics,
    *,
    reduce_range: bool = False,
    framework: str = "pytorch",
) -> float:
    reference = x.astype(np.float64) @ w.T.astype(np.float64)
    smoothed = w * scale
    axis = 0 if config.weight.granularity == "per_channel" else None
    parameters = weight_parameters(smoothed, config.weight, framework=framework, reduce_range=reduce_range)
    weight = fake_quantize(smoothed, parameters, axis).astype(np.float64)
    rows = x / scale
    if config.activation.is_per_token:
        low, high = rows.min(axis=1), rows.max(axis=1)
        scheme = config.activation.scheme or ""
        activation = quantization_parameters(
            low, high, dtype=config.activation.dtype, scheme=scheme, framework=framework
        )
        rows = fake_quantize(rows, activation, 0)
    elif not config.activation.is_float:
        low = (np.asarray(statistics.channel_minimum) / scale).min()
        high = (np.asarray(statistics.channel_maximum) / scale).max()
        activation = quantization_parameters(
            low, high, dtype=config.activation.dtype, scheme=config.activation.scheme or "", framework=framework
        )
        rows = fake_quantize(rows, activation)
    quantized = rows.astype(np.float64) @ weight.T
    return float(((quantized - reference) ** 2).sum() / (reference**2).sum())


class TestAlphaGrid:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((0.0, 1.0, 0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
            ((0.8, 0.99, 0.01), tuple(round(0.8 + 0.01 * index, 2) for index in range(20))),
            ((0.3, 0.7, 0.25), (0.3, 0.55, 0.7)),
            ((0.5, 0.5, 0.1), (0.5,)),
            ((0.2, 0.4, 5), (0.2, 0.4)),
        ],
    )
    def test_both_ends_and_no_dust(self, arguments: tuple[float, float, float], expected: tuple[float, ...]) -> None:
        assert alpha_grid(*arguments) == expected

    def test_regression_integer_bounds_crashed(self) -> None:
        """`str(0).split(".")[1]` raised IndexError in Intel Neural Compressor."""
        assert alpha_grid(0, 1, 1) == (0.0, 1.0)
        assert alpha_grid(1, 1, 1) == (1.0,)
        assert all(type(alpha) is float for alpha in alpha_grid(0, 1, 1))

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ((-0.1, 1, 0.1), "alpha_min"),
            ((0, 1.1, 0.1), "alpha_max"),
            ((0.6, 0.5, 0.1), "alpha_min"),
            ((0, 1, 0), "alpha_step"),
            ((0, 1, -0.1), "alpha_step"),
            ((0, 1, float("nan")), "alpha_step"),
            ((0, 1, 1e-9), "alpha_step"),
            ((float("nan"), 1, 0.1), "alpha_min"),
            (("0", 1, 0.1), "alpha_min"),
            ((True, 1, 0.1), "alpha_min"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments: Any, name: str) -> None:
        with pytest.raises(ArgumentError, match=name):
            alpha_grid(*arguments)

    @settings(max_examples=100, deadline=None)
    @given(bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)), step=st.floats(1e-3, 2))
    def test_sorted_unique_and_inside(self, bounds: tuple[float, float], step: float) -> None:
        low, high = min(bounds), max(bounds)
        grid = alpha_grid(low, high, step)
        assert grid[-1] == high
        assert grid[0] == pytest.approx(low, abs=1e-9)
        assert all(a < b for a, b in itertools.pairwise(grid))


class TestSmoothingScale:
    @pytest.mark.parametrize("namespace", NAMESPACES)
    def test_formula(self, namespace: str) -> None:
        activation, weight = np.float32([4.0, 0.25, 9.0]), np.float32([0.5, 2.0, 0.1])
        for alpha in (0, 0.3, 0.5, 1):
            scale = smoothing_scale(make(namespace, activation), make(namespace, weight), alpha)
            np.testing.assert_allclose(np.asarray(scale), activation**alpha / weight ** (1 - alpha), rtol=1e-6)
            assert np.asarray(scale).dtype == np.float32

    @pytest.mark.parametrize("namespace", NAMESPACES)
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    def test_dead_channels_are_left_alone(self, namespace: str, alpha: float) -> None:
        activation, weight = np.float32([0, 5, 0, 7]), np.float32([3, 0, 0, 7])
        scale = smoothing_scale(make(namespace, activation), make(namespace, weight), alpha)
        assert np.asarray(scale)[:3].tolist() == [1, 1, 1]

    @settings(max_examples=60, deadline=None)
    @given(activation=ABSMAX, weight=ABSMAX, alpha=st.floats(0, 1))
    @pytest.mark.filterwarnings("error")
    def test_always_positive_and_sane(self, activation: np.ndarray, weight: np.ndarray, alpha: float) -> None:
        scale = smoothing_scale(activation, weight, alpha)
        assert np.all((scale >= np.float32(1e-5)) & (scale <= 1e5))
        assert scale.dtype == np.float32

    @settings(max_examples=50, deadline=None)
    @given(
        x=arrays(np.float32, (5, 6), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)),
        w=arrays(np.float32, (4, 6), elements=st.floats(-10, 10, width=32, allow_subnormal=False)),
        alpha=st.floats(0, 1),
    )
    @pytest.mark.parametrize("namespace", NAMESPACES)
    def test_preserves_the_fp32_function(self, namespace: str, x: np.ndarray, w: np.ndarray, alpha: float) -> None:
        scale = np.asarray(smoothing_scale(make(namespace, np.abs(x).max(0)), make(namespace, np.abs(w).max(0)), alpha))
        bound = np.abs(x) @ np.abs(w).T  # the largest a float32 rounding error can be measured against
        np.testing.assert_allclose((x / scale) @ (w * scale).T, x @ w.T, atol=1e-5 * max(bound.max(), 1e-30))

    def test_alpha_one_levels_the_activation_and_alpha_zero_the_weight(self) -> None:
        x, w = with_outliers(100), random(8, CHANNELS, seed=1)
        absmax = np.abs(x).max(0), np.abs(w).max(0)
        np.testing.assert_allclose(np.abs(x / smoothing_scale(*absmax, 1)).max(0), 1, rtol=1e-5)
        np.testing.assert_allclose(np.abs(w * smoothing_scale(*absmax, 0)).max(0), 1, rtol=1e-5)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_computed_and_returned_in_float32(self, dtype: str) -> None:
        torch = pytest.importorskip("torch")
        x = torch.tensor([1e4, 1e-4, 0.0]).to(getattr(torch, dtype))
        scale = smoothing_scale(x, x.flip(0), 1.0)
        assert scale.dtype == torch.float32
        assert torch.isfinite(scale).all()

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "auto", None, True])
    def test_alpha_outside_is_an_error(self, alpha: Any) -> None:
        with pytest.raises(ArgumentError, match="from 0 to 1"):
            smoothing_scale(np.ones(2, np.float32), np.ones(2, np.float32), alpha)

    def test_regression_absmax_is_taken_of_magnitudes_over_all_members(self) -> None:
        """The shared scale of Intel Neural Compressor's ONNX branch took the signed maximum before the absolute."""
        weights = [np.float32([[-8, 1], [0.5, -1]]), np.float32([[2, -3]])]
        assert group_weight_absmax(weights).tolist() == [8, 3]
        statistics = statistics_of([np.float32([[-9, 1], [2, -4]])])
        assert np.asarray(statistics.channel_absmax).tolist() == [9, 4]


class TestSmoothedRange:
    @pytest.mark.parametrize("namespace", NAMESPACES)
    def test_minmax_is_exact_over_all_tokens_and_not_over_the_rows(self, namespace: str) -> None:
        batches = [with_outliers(50, seed=index) for index in range(4)]
        statistics = statistics_of([make(namespace, batch) for batch in batches], rows=4)
        scale = np.linspace(0.1, 4, CHANNELS, dtype=np.float32)
        whole = np.concatenate(batches) / scale
        low, high = smoothed_range(statistics, make(namespace, scale), ACTIVATION)
        assert (low, high) == (whole.min(), whole.max())
        unsmoothed = np.concatenate(batches)
        assert smoothed_range(statistics, None, ACTIVATION) == (unsmoothed.min(), unsmoothed.max())

    @pytest.mark.parametrize("namespace", NAMESPACES)
    @pytest.mark.parametrize("algorithm", ["kl", "percentile", "mse"])
    def test_clipping_algorithms_use_the_smoothed_rows(self, namespace: str, algorithm: str) -> None:
        config = TensorConfig("uint4", "asym", "per_tensor", algorithm)
        batches = [with_outliers(500, seed=index) for index in range(2)]
        statistics = statistics_of([make(namespace, batch) for batch in batches], histogram=True)
        scale = np.where(np.isin(np.arange(CHANNELS), [3, 11]), 30, 1).astype(np.float32)
        low, high = smoothed_range(statistics, make(namespace, scale), config)
        alike = statistics_of([batch / scale for batch in batches], histogram=True)
        assert (low, high) == pytest.approx(alike.activation_range(algorithm, "uint4", "asym"), rel=1e-3)
        assert smoothed_range(statistics, None, config) == statistics.activation_range(algorithm, "uint4", "asym")

    def test_rows_stand_in_for_a_missing_histogram(self) -> None:
        config = TensorConfig("uint4", "asym", "per_tensor", "mse")
        x = with_outliers(500)
        rows_only, counted = statistics_of([x]), statistics_of([x], histogram=True)
        assert smoothed_range(rows_only, None, config) == smoothed_range(counted, None, config)
        with pytest.raises(CalibrationError, match="histogram"):
            smoothed_range(statistics_of([x], rows=0), None, config)
        with pytest.raises(CalibrationError, match="no rows"):
            smoothed_range(statistics_of([x], rows=0), np.ones(CHANNELS, np.float32), config)


CONFIGS = {
    "int8": INT8,
    "per_tensor": OpConfig(TensorConfig("int8", "sym", "per_tensor", "minmax"), ACTIVATION, "static"),
    "symmetric activation": OpConfig(WEIGHT, TensorConfig("uint8", "sym", "per_tensor", "minmax"), "static"),
    "signed activation": OpConfig(WEIGHT, TensorConfig("int8", "asym", "per_tensor", "minmax"), "dynamic"),
    "ranges of tokens": OpConfig(WEIGHT, TensorConfig("uint8", "asym", "per_token", "minmax"), "dynamic"),
    "ranges of tokens, asymmetric weight": OpConfig(
        TensorConfig("uint8", "asym", "per_channel", "minmax"), TensorConfig("uint8", "sym", "per_token"), "dynamic"
    ),
    "4 bits": OpConfig(
        TensorConfig("int4", "sym", "per_channel", "mse"), TensorConfig("uint4", "asym", "per_tensor"), "static"
    ),
    "asymmetric weight": OpConfig(TensorConfig("uint8", "asym", "per_channel", "minmax"), ACTIVATION, "static"),
    "unsigned symmetric weight": OpConfig(TensorConfig("uint8", "sym", "per_channel", "minmax"), ACTIVATION, "static"),
    "weight only": OpConfig(WEIGHT, FP32_TENSOR, "weight_only"),
}


class TestSearch:
    @pytest.mark.parametrize("namespace", NAMESPACES)
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
    @pytest.mark.parametrize("product", [None, integer_product])
    @pytest.mark.parametrize("framework", ["pytorch", "onnxruntime", "tensorflow"])
    def test_loss_is_as_defined(self, namespace: str, config: OpConfig, product: Any, framework: str) -> None:
        """Every config, with and without an integer kernel, against a direct computation."""
        x, weights = with_outliers(40), [random(10, CHANNELS, seed=1), random(6, CHANNELS, seed=2) * 3]
        statistics = statistics_of([make(namespace, x)])
        group = group_of(statistics, [make(namespace, w) for w in weights], config, reduce_range=True)
        result = search_alpha(group, (0.0, 0.7), framework=framework, integer_product=product)
        absmax = np.abs(x).max(0), np.maximum(*(np.abs(w).max(0) for w in weights))
        for name, w in zip(group.operators, weights, strict=True):
            for alpha in (None, 0.0, 0.7):
                scale = np.ones(CHANNELS, np.float32) if alpha is None else smoothing_scale(*absmax, alpha)
                expected = loss_by_definition(x, w, scale, config, statistics, reduce_range=True, framework=framework)
                found = result.operator_losses_off[name] if alpha is None else result.operator_losses[name][alpha]
                # Float32 may round single values differently at the middle between two integers.
                assert found == pytest.approx(expected, rel=2e-2)

    @pytest.mark.parametrize("namespace", NAMESPACES)
    def test_smoothing_helps_where_there_are_outliers(self, namespace: str) -> None:
        group = group_of(statistics_of([make(namespace, with_outliers(200))]), [make(namespace, random(32, CHANNELS))])
        result = search_alpha(group, ALPHAS)
        assert isinstance(result, AlphaSearchResult)
        assert result.losses[result.alpha] == min(result.losses.values())
        assert result.losses[result.alpha] < result.loss_off / 5
        assert tuple(result.losses) == ALPHAS

    def test_alpha_zero_is_not_off(self) -> None:
        weight = random(16, CHANNELS) * np.geomspace(0.01, 1, CHANNELS, dtype=np.float32)
        result = search_alpha(group_of(statistics_of([with_outliers(50)]), [weight]), (0.0,))
        assert result.losses[0.0] != pytest.approx(result.loss_off, rel=0.05)

    def test_regression_only_the_last_batch_decided_alpha(self) -> None:
        """`loss_alphas = {}` stood inside the batch loop of Intel Neural Compressor."""
        quiet = [random(60, CHANNELS, seed=index) for index in range(3)]
        loud = with_outliers(60, seed=9, factor=200)
        weight = random(32, CHANNELS, seed=4)
        batches = [*quiet, loud]
        results = [
            search_alpha(group_of(statistics_of([batches[index] for index in order]), [weight]), ALPHAS)
            for order in itertools.permutations(range(4))
        ]
        assert len({result.alpha for result in results}) == 1
        for result in results[1:]:
            assert result.losses == pytest.approx(results[0].losses, rel=1e-4)
        last_only = search_alpha(group_of(statistics_of([quiet[0]]), [weight]), ALPHAS)
        assert last_only.alpha != results[0].alpha

    def test_regression_last_batch_of_the_same_data_changed_alpha(self) -> None:
        """The same tokens cut into other batches, so that another one is last."""
        tokens, weight = with_outliers(120), random(32, CHANNELS, seed=4)
        results = [
            search_alpha(group_of(statistics_of(np.split(tokens, cuts), rows=64), [weight]), ALPHAS)
            for cuts in ([60], [119], [1, 2, 3], [])
        ]
        assert all(result.losses == results[0].losses for result in results)
        assert len({result.alpha for result in results}) == 1

    @pytest.mark.parametrize(("bounds", "init_alpha"), [((0.8, 0.9), 0.5), ((0.0, 0.2), 0.9), ((0.3, 0.3), 0.5)])
    @pytest.mark.parametrize("tokens", [1, 50])
    def test_regression_init_alpha_outside_the_range_was_chosen(
        self, bounds: tuple[float, float], init_alpha: float, tokens: int
    ) -> None:
        """With a single sample Intel Neural Compressor answered 0.5 for the range 0.8 to 0.9."""
        group = group_of(statistics_of([with_outliers(tokens)]), [random(8, CHANNELS, seed=3)])
        result = search_alpha(group, alpha_grid(*bounds, 0.1), init_alpha=init_alpha)
        assert bounds[0] <= result.alpha <= bounds[1]
        assert init_alpha not in result.losses

    def test_regression_loss_compared_with_the_smoothed_operator(self) -> None:
        """Intel Neural Compressor's ONNX search took X (W s), not X W, as the truth.

        With plenty of bits for the weight and float activations, the true loss is tiny at every alpha; measured
        against X (W s) it would be of the order of 1.
        """
        x, weight = with_outliers(50), random(8, CHANNELS, seed=1)
        config = OpConfig(WEIGHT, FP32_TENSOR, "weight_only")
        result = search_alpha(group_of(statistics_of([x]), [weight], config), ALPHAS)
        assert max(result.losses.values()) < 1e-2
        truth = x @ weight.T
        scale = smoothing_scale(np.abs(x).max(0), np.abs(weight).max(0), 0.5)
        assert np.sum((x @ (weight * scale).T - truth) ** 2) / np.sum(truth**2) > 0.1

    def test_ranges_come_from_all_tokens_although_few_rows_score(self) -> None:
        """An outlier that no sampled row holds must still be in the range."""
        tokens = random(2000, CHANNELS)
        tokens[1234, 5] = 500.0
        few = statistics_of([tokens], rows=8)
        assert few.sampled_rows is not None
        assert few.sampled_rows.max() < 100
        calm = statistics_of([np.delete(tokens, 1234, axis=0)], rows=8)
        weight = random(16, CHANNELS)
        loss_with = search_alpha(group_of(few, [weight]), ALPHAS).loss_off
        loss_without = search_alpha(group_of(calm, [weight]), ALPHAS).loss_off
        assert loss_with > 100 * loss_without

    @pytest.mark.parametrize("criterion", ["min", "mean", "max"])
    def test_shared_criterion(self, criterion: str) -> None:
        weights = [random(8, CHANNELS, seed=1), random(8, CHANNELS, seed=2) * np.linspace(0.01, 9, CHANNELS)]
        group = group_of(statistics_of([with_outliers(80)]), [w.astype(np.float32) for w in weights])
        result = search_alpha(group, ALPHAS, shared_criterion=criterion)
        combine = {"min": min, "mean": lambda values: sum(values) / len(values), "max": max}[criterion]
        for alpha in ALPHAS:
            members = [result.operator_losses[name][alpha] for name in group.operators]
            assert result.losses[alpha] == pytest.approx(combine(members))
        assert result.alpha == result.best_alpha[criterion] == min(result.losses, key=result.losses.__getitem__)
        assert result.loss_off == pytest.approx(combine(list(result.operator_losses_off.values())))

    def test_members_can_have_configs_of_their_own_and_fp32_ones_cost_nothing(self) -> None:
        weights = [random(8, CHANNELS, seed=index) for index in range(3)]
        statistics = statistics_of([with_outliers(30)])
        fp32 = OpConfig(FP32_TENSOR, FP32_TENSOR)
        result = search_alpha(group_of(statistics, weights, (INT8, CONFIGS["4 bits"], fp32)), ALPHAS)
        assert set(result.operator_losses["operator2"].values()) == {0.0}
        assert result.operator_losses_off["operator1"] > 10 * result.operator_losses_off["operator0"]

    def test_ties_go_to_the_nearest_initial_alpha_then_to_the_smaller(self) -> None:
        group = group_of(statistics_of([with_outliers(10)]), [np.zeros((4, CHANNELS), np.float32)])
        assert search_alpha(group, ALPHAS, init_alpha=0.8).alpha == 0.8
        assert search_alpha(group, (0.2, 0.6), init_alpha=0.4).alpha == 0.2
        assert search_alpha(group, ALPHAS, init_alpha=0.8).losses == dict.fromkeys(ALPHAS, 0.0)

    def test_all_zero_activation(self) -> None:
        group = group_of(statistics_of([np.zeros((5, CHANNELS), np.float32)]), [random(4, CHANNELS)])
        assert set(search_alpha(group, ALPHAS).losses.values()) == {0.0}

    @pytest.mark.parametrize("namespace", NAMESPACES)
    @pytest.mark.parametrize("magnitude", [1e20, 1e30])
    def test_losses_do_not_depend_on_the_unit_of_the_activation(self, namespace: str, magnitude: float) -> None:
        """Squares of such outputs leave float32."""
        x, weight = with_outliers(200), make(namespace, random(32, CHANNELS))
        expected = search_alpha(group_of(statistics_of([make(namespace, x)]), [weight]), (0.5,))
        scaled = make(namespace, (x * magnitude).astype(np.float32))
        found = search_alpha(group_of(statistics_of([scaled]), [weight]), (0.5,))
        assert found.loss_off == pytest.approx(expected.loss_off, rel=0.05)

    @pytest.mark.filterwarnings("error")
    def test_products_beyond_float32_have_no_finite_loss(self) -> None:
        """No alpha is then better than no smoothing."""
        group = group_of(statistics_of([with_outliers(50) * np.float32(1e36)]), [random(32, CHANNELS) * 1e4])
        result = search_alpha(group, ALPHAS)
        assert {result.loss_off, *result.losses.values()} == {math.inf}
        assert result.alpha == 0.5

    def test_fewer_output_channels_choose_alike(self) -> None:
        weight = random(300, CHANNELS, seed=1)
        weight[7, 5] = 8.0  # not scored, but it belongs to the scale
        group = group_of(statistics_of([with_outliers(100)]), [weight])
        all_of_them, some = search_alpha(group, ALPHAS), search_alpha(group, ALPHAS, output_channels=64)
        assert some.losses == pytest.approx(all_of_them.losses, rel=0.5)
        assert abs(some.alpha - all_of_them.alpha) < 0.11
        scale = smoothing_scale(np.abs(with_outliers(100)).max(0), np.abs(weight).max(0), 0.5)
        expected = loss_by_definition(with_outliers(100), weight[::5], scale, INT8, group.statistics)
        assert some.losses[0.5] == pytest.approx(expected, rel=2e-2)

    def test_weights_are_not_changed_and_read_once(self) -> None:
        weight, reads = random(8, CHANNELS), []
        group = InputGroup(
            "group", ("a",), statistics_of([with_outliers(10)]), lambda: reads.append(1) or [weight], (INT8,)
        )
        before = weight.copy()
        search_alpha(group, ALPHAS)
        np.testing.assert_array_equal(weight, before)
        assert len(reads) == 1

    def test_torch_parameters_in_half_precision(self) -> None:
        torch = pytest.importorskip("torch")
        weight = torch.nn.Parameter(torch.tensor(random(16, CHANNELS)).to(torch.bfloat16))
        statistics = statistics_of([torch.tensor(with_outliers(50)).to(torch.bfloat16)])
        result = search_alpha(group_of(statistics, [weight]), ALPHAS)
        exact = search_alpha(group_of(statistics, [weight.detach().float()]), ALPHAS)
        assert result.losses == pytest.approx(exact.losses, rel=1e-5)

    def test_namespaces_agree(self) -> None:
        pytest.importorskip("torch")
        x, weight = with_outliers(100), random(32, CHANNELS, seed=1)
        numpy_result, torch_result = (
            search_alpha(group_of(statistics_of([make(each, x)]), [make(each, weight)]), ALPHAS)
            for each in ("numpy", "torch")
        )
        assert numpy_result.losses == pytest.approx(torch_result.losses, rel=1e-2)
        assert numpy_result.alpha == torch_result.alpha

    def test_large_weights_are_scored_in_chunks_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for config in (CONFIGS["int8"], CONFIGS["per_tensor"]):
            group = group_of(statistics_of([with_outliers(20)]), [random(50, CHANNELS)], config)
            whole = search_alpha(group, ALPHAS)
            with monkeypatch.context() as patch:
                patch.setattr("inc_autotune.core.quantization.operator_loss._CHUNK_ELEMENTS", 7 * CHANNELS)
                assert search_alpha(group, ALPHAS).losses == pytest.approx(whole.losses, rel=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"alphas": ()}, "nothing to search"),
            ({"alphas": (0.5, 1.5)}, "alphas=1.5"),
            ({"alphas": ALPHAS, "shared_criterion": "median"}, "unknown criterion"),
            ({"alphas": ALPHAS, "shared_criterion": "maxx"}, "Did you mean 'max'"),
        ],
    )
    def test_bad_arguments_are_errors(self, arguments: dict[str, Any], message: str) -> None:
        group = group_of(statistics_of([with_outliers(10)]), [random(4, CHANNELS)])
        with pytest.raises(ArgumentError, match=message):
            search_alpha(group, **arguments)

    def test_groups_that_do_not_fit_together_are_errors(self) -> None:
        statistics = statistics_of([with_outliers(10)])
        with pytest.raises(ArgumentError, match="'operator0' has shape"):
            search_alpha(group_of(statistics, [random(4, CHANNELS + 1)]), ALPHAS)
        with pytest.raises(ArgumentError, match="2 configs"):
            search_alpha(group_of(statistics, [random(4, CHANNELS)], (INT8, INT8)), ALPHAS)
        with pytest.raises(CalibrationError, match="no rows of its input"):
            search_alpha(group_of(statistics_of([with_outliers(4)], rows=0), [random(4, CHANNELS)]), ALPHAS)


def test_one_alpha_for_a_block_of_groups() -> None:
    losses = {"a": {0.2: 1.0, 0.5: 2.0, 0.8: 4.0}, "b": {0.2: 9.0, 0.5: 4.0, 0.8: 3.5}}
    assert choose_alpha(losses, "mean") == 0.5
    assert choose_alpha(losses, "min") == 0.2
    assert choose_alpha(losses, "max") == 0.5
    with pytest.raises(ArgumentError, match="no alpha"):
        choose_alpha({})
