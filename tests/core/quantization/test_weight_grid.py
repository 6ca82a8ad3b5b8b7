"""Grids of groups of weights: what the lowest integer stands for, and zero points between integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import SecondMoment, dequantize, error_under, quantize, quantize_by_second_moment
from inc_autotune.core.quantization.weight_grid import weight_parameters

REALS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-4)
GROUPS = TensorConfig("int4", "sym", "per_group_32", "minmax")


@settings(max_examples=50, deadline=None)
@given(rows=arrays(np.float32, (4, 32), elements=REALS), bits=st.integers(2, 8))
def test_the_value_farthest_from_zero_of_a_group_is_exact(rows, bits):
    parameters = weight_parameters(rows, TensorConfig(f"int{bits}", "sym", "per_group_32", "minmax"))
    rounded = dequantize(quantize(rows, parameters, 0), parameters, 0)
    np.testing.assert_allclose(np.abs(rounded).max(1), np.abs(rows).max(1), rtol=1e-5)
    assert np.all(np.abs(rounded - rows).max(1) <= np.abs(parameters.scale) * 1.001)


@pytest.mark.parametrize("algorithm", ["minmax", "mse"])
def test_a_level_more_on_the_far_side_takes_error_away(algorithm):
    rows = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    errors = []
    for granularity in ("per_group_32", "per_channel"):
        parameters = weight_parameters(rows, TensorConfig("int4", "sym", granularity, algorithm))
        errors.append(np.square(dequantize(quantize(rows, parameters, 0), parameters, 0) - rows).mean())
    assert errors[0] < 0.95 * errors[1]


def test_the_scale_of_zeros_is_no_zero():
    parameters = weight_parameters(np.zeros((2, 32), np.float32), GROUPS)
    assert np.all(parameters.scale != 0)
    assert np.all(quantize(np.zeros((2, 32), np.float32), parameters, 0) == 0)


def test_fractions_of_zero_points_reproduce_a_grid_without_zero():
    generator = np.random.default_rng(1)
    integers = generator.integers(0, 16, (50, 32))
    integers[:, :2] = 0, 15
    scale, least = generator.uniform(0.5, 2, (50, 1)), generator.uniform(-12, -3, (50, 1))
    rows = ((integers + least) * scale).astype(np.float32)
    errors = {}
    for parts in (1, 16):
        parameters = weight_parameters(rows, TensorConfig("int4", "asym", "per_group_32"), zero_point_parts=parts)
        assert parameters.has_fractions == (parts > 1)
        np.testing.assert_array_equal(parameters.zero_point * parts % 1, 0)
        rounded = dequantize(quantize(rows, parameters, 0), parameters, 0)
        errors[parts] = np.abs((rounded - rows) / scale).max()
    assert errors[16] <= 1 / 32 + 1e-4 < 0.4 < errors[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scheme=st.sampled_from(["sym", "asym"]))
def test_second_moments_round_on_such_grids(seed, scheme):
    generator = np.random.default_rng(seed)
    x = (generator.standard_normal((300, 4)) @ generator.standard_normal((4, 32))).astype(np.float32)
    x += generator.standard_normal(x.shape, np.float32) / 10
    weight = generator.standard_normal((8, 32)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig("int4", scheme, "per_group_32"), zero_point_parts=16)
    moment = SecondMoment(32)
    moment.update(x)
    found, nearest = quantize_by_second_moment(weight, parameters, moment), quantize(weight, parameters, 0)
    np.testing.assert_array_equal(found, np.clip(np.round(found), parameters.quant_min, parameters.quant_max))
    errors = [error_under(moment, dequantize(each, parameters, 0) - weight) for each in (found, nearest)]
    assert np.all(errors[0] <= errors[1] * 1.001)
    assert errors[0].sum() < 0.8 * errors[1].sum()
