"""What the corrections promise: means and norms as before rounding, and nothing where nothing was lost."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import (
    ActivationStatistics,
    InputMeans,
    corrections,
    dequantize,
    fake_quantize,
    input_means,
    output_shift,
    quantization_parameters,
    quantize,
    restore_moments,
    weight_parameters,
)

UINT8 = TensorConfig("uint8", "asym", "per_tensor")
SEEDS = st.integers(0, 2**32 - 1)


def random(seed: int, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + generator.standard_normal(shape[-1])).astype(np.float32)


def rounded(weight: Any, bits: int, granularity: str = "per_channel", axis: int = 0) -> tuple[Any, Any]:
    """Integers and their parameters."""
    parameters = weight_parameters(weight, TensorConfig(f"int{bits}", "sym", granularity), axis=axis)
    return quantize(weight, parameters, axis if parameters.scale.ndim else None), parameters


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 8), st.floats(0.3, 1.0))
def test_the_mean_output_is_that_of_fp32(seed: int, bits: int, share: float) -> None:
    """Also where the input is clipped, with the exact means of all rows."""
    x, weight = random(seed, 50, 12), random(seed + 1, 7, 12)
    low, high = share * float(x.min()), share * float(x.max())
    x_rounded = fake_quantize(x, quantization_parameters(low, high, dtype="uint8", scheme="asym"))
    integers, parameters = rounded(weight, bits)
    w_rounded = dequantize(integers, parameters, 0)
    shift = output_shift(weight, w_rounded, InputMeans(x.mean(0), x_rounded.mean(0)))
    error = (x_rounded @ w_rounded.T + shift - x @ weight.T).mean(0)
    assert np.abs(error).max() < 1e-4 * np.abs(x @ weight.T).max()


def test_of_a_convolution_by_groups() -> None:
    x, weight = random(0, 4, 3), random(1, 6, 2, 3, 3)
    groups, other = 2, 0.9 * weight
    mean = np.concatenate([x.mean(0), [0.5]]).astype(np.float32)
    expected = [((weight - other)[o] * mean[2 * (o // 3) : 2 * (o // 3) + 2, None, None]).sum() for o in range(6)]
    np.testing.assert_allclose(output_shift(weight, other, InputMeans(mean, mean), groups), expected, rtol=1e-4)


def test_nothing_is_shifted_where_nothing_was_lost() -> None:
    weight, mean = random(0, 5, 8), random(1, 8)
    assert not output_shift(weight, weight, InputMeans(mean, mean)).any()


@pytest.mark.parametrize("scale", [None, np.linspace(0.5, 2, 4, dtype=np.float32)])
def test_means_of_statistics(scale: np.ndarray | None) -> None:
    x = random(0, 64, 4)
    statistics = ActivationStatistics("x", rows=64)
    statistics.update(x)
    smoothed = x if scale is None else x / scale
    limits = (0.1 * float(smoothed.min()), 0.1 * float(smoothed.max()))
    means = input_means(statistics, scale, UINT8, limits)
    np.testing.assert_allclose(means.exact, smoothed.mean(0), rtol=1e-4, atol=1e-6)
    # All rows are sampled, so only the part that could be chance is missing.
    clipped = fake_quantize(smoothed, quantization_parameters(*limits, dtype="uint8", scheme="asym")).mean(0)
    moved, seen = clipped - smoothed.mean(0), means.rounded - means.exact
    assert np.abs(seen).max() > 0.5 * np.abs(moved).max()
    assert (np.abs(seen) <= np.abs(moved) + 1e-6).all()


def test_rounding_at_run_time_moves_no_mean() -> None:
    statistics = ActivationStatistics("x", rows=8)
    statistics.update(random(0, 9, 3))
    means = input_means(statistics, None, UINT8, None)
    assert means.exact is means.rounded


def test_a_mean_that_is_chance_is_left_alone() -> None:
    """Of rounding without clipping, in steps much smaller than the spread, nothing remains but noise."""
    x = random(0, 400, 64)
    statistics = ActivationStatistics("x", rows=400)
    statistics.update(x)
    limits = (float(x.min()), float(x.max()))
    means = input_means(statistics, None, UINT8, limits)
    parameters = quantization_parameters(*limits, dtype="uint8", scheme="asym")
    moved = fake_quantize(x, parameters).mean(0) - x.mean(0)
    assert np.square(means.rounded - means.exact).sum() < 0.5 * np.square(moved).sum()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 8), st.sampled_from([(6, 9), (3, 4, 3, 3), (1, 2)]))
def test_mean_and_norm_of_a_weight(seed: int, bits: int, shape: tuple[int, ...]) -> None:
    weight = random(seed, *shape)
    integers, parameters = rounded(weight, bits)
    restored, better = restore_moments(weight, integers, parameters, 0)
    assert parameters.quant_min <= restored.min()
    assert restored.max() <= parameters.quant_max
    assert np.array_equal(restored, np.round(restored))
    rows, before, after = (
        each.reshape(shape[0], -1)
        for each in (weight, dequantize(integers, parameters, 0), dequantize(restored, better, 0))
    )

    def distance(values: np.ndarray) -> np.ndarray:
        return np.hypot(values.mean(1) - rows.mean(1), values.std(1) - rows.std(1))

    assert (distance(after) <= distance(before) * 1.0001 + 1e-6).all()
    if bits > 3 and rows.shape[1] > 20:
        nearest = np.maximum(np.abs(before.mean(1) - rows.mean(1)), 0.5 * better.scale / rows.shape[1])
        assert (np.abs(after.mean(1) - rows.mean(1)) <= 1.001 * nearest).all()
        np.testing.assert_allclose(after.std(1), rows.std(1), rtol=0.02)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_a_weight_on_the_grid_stays(granularity: str) -> None:
    integers, parameters = rounded(random(0, 5, 50), 8, granularity)
    weight = dequantize(integers, parameters, 0 if granularity == "per_channel" else None)
    restored, better = restore_moments(weight, integers, parameters, 0)
    np.testing.assert_array_equal(restored, integers)
    np.testing.assert_array_equal(better.scale, parameters.scale)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_blocks_of_channels_change_nothing(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(0, 7, 3, 3)
    integers, parameters = rounded(weight, 4, granularity)
    whole, scale = restore_moments(weight, integers, parameters, 0)
    monkeypatch.setattr(corrections, "_BLOCK_ELEMENTS", 20)
    restored, better = restore_moments(weight, integers, parameters, 0)
    np.testing.assert_array_equal(restored, whole)
    np.testing.assert_array_equal(better.scale, scale.scale)


def test_equal_elements_and_zeros() -> None:
    """Of nine equal elements those are moved that it takes, not all; a channel of zeros stays."""
    weight = np.full((2, 9), 0.3, np.float32)
    weight[0, 0], weight[1] = 127.0, 0.0
    integers, parameters = rounded(weight, 8)
    restored, better = restore_moments(weight, integers, parameters, 0)
    assert restored[0].sum() == round(float(weight[0].sum() / better.scale[0]))
    assert not restored[1].any()
    assert np.isfinite(better.scale).all()


def test_the_axis_of_channels() -> None:
    weight = random(3, 4, 10)
    for axis, values in ((0, weight), (1, weight.T)):
        integers, parameters = rounded(values, 4, axis=axis)
        restored, better = restore_moments(values, integers, parameters, axis)
        if axis == 0:
            expected = restored, better.scale
    np.testing.assert_array_equal(restored.T, expected[0])
    np.testing.assert_array_equal(better.scale, expected[1])


@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_torch_computes_the_same() -> None:
    import torch

    weight, mean = random(0, 6, 3, 2, 2), random(1, 3)
    integers, parameters = rounded(weight, 4)
    restored, better = restore_moments(weight, integers, parameters, 0)
    theirs, their_parameters = rounded(torch.tensor(weight), 4)
    theirs, their_parameters = restore_moments(torch.tensor(weight), theirs, their_parameters, 0)
    np.testing.assert_array_equal(theirs.numpy(), restored)
    np.testing.assert_allclose(their_parameters.scale.numpy(), better.scale, rtol=1e-6)
    shift = output_shift(weight, 0.9 * weight, InputMeans(mean, mean))
    means = InputMeans(torch.tensor(mean), torch.tensor(mean))
    np.testing.assert_allclose(
        output_shift(torch.tensor(weight), 0.9 * torch.tensor(weight), means), shift, rtol=1e-4, atol=1e-6
    )
