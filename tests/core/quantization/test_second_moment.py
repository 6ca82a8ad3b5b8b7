import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import (
    InputMoments,
    QuantizationParameters,
    SecondMoment,
    error_under,
    input_moments,
    pack_steps,
    quantize,
    quantize_by_second_moment,
    second_moment,
    unpack_steps,
    weight_parameters,
)


def correlated_rows(generator, rows, columns, rank):
    base = generator.standard_normal((rows, rank)) @ generator.standard_normal((rank, columns))
    return (base * np.exp(generator.standard_normal(columns))).astype(np.float32)


def real(integers, parameters):
    scale, zero_point = np.asarray(parameters.scale), np.asarray(parameters.zero_point)
    if scale.ndim == 1:
        scale, zero_point = scale[:, None], zero_point[:, None]
    return (integers - zero_point) * scale


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    columns=st.integers(1, 24),
    rank=st.integers(1, 12),
    groups=st.integers(1, 3),
    dtype=st.sampled_from(["int8", "int4", "uint8", "int2"]),
    scheme=st.sampled_from(["sym", "asym"]),
    granularity=st.sampled_from(["per_tensor", "per_channel"]),
    reduce_range=st.booleans(),
    dead=st.booleans(),
)
def test_no_row_has_a_larger_error_than_by_nearest_integers(
    seed, rows, columns, rank, groups, dtype, scheme, granularity, reduce_range, dead
):
    generator = np.random.default_rng(seed)
    x = correlated_rows(generator, rows, groups * columns, rank)
    if dead:
        x[:, generator.integers(groups * columns)] = 0.0
    weight = generator.standard_normal((4 * groups, columns)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig(dtype, scheme, granularity), reduce_range=reduce_range)
    moment = SecondMoment(columns, groups)
    moment.update(x)
    integers = quantize_by_second_moment(weight, parameters, moment)
    nearest = quantize(weight, parameters, 0 if granularity == "per_channel" else None)
    found = error_under(moment, real(integers, parameters) - weight)
    expected = error_under(moment, real(nearest, parameters) - weight)
    assert (found <= expected * (1 + 1e-4) + 1e-6).all()
    np.testing.assert_array_equal(integers, np.round(integers))
    assert integers.min() >= parameters.quant_min
    assert integers.max() <= parameters.quant_max


def test_correlated_inputs_lose_most_of_the_error_also_on_other_rows():
    generator = np.random.default_rng(0)
    x = correlated_rows(generator, 4000, 64, 16)
    weight = generator.standard_normal((32, 64)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig("int8", "sym", "per_channel"))
    moment = SecondMoment(64)
    moment.update(x[:2000])
    rounded = real(quantize_by_second_moment(weight, parameters, moment), parameters) - weight
    nearest = real(quantize(weight, parameters, 0), parameters) - weight
    other = x[2000:]
    assert np.sum((other @ rounded.T) ** 2) < 0.25 * np.sum((other @ nearest.T) ** 2)


def test_numpy_and_torch_give_the_same_integers():
    generator = np.random.default_rng(1)
    x, weight = correlated_rows(generator, 300, 20, 8), generator.standard_normal((6, 20)).astype(np.float32)
    found = []
    for of in (np.asarray, torch.from_numpy):
        parameters = weight_parameters(of(weight), TensorConfig("int8", "sym", "per_channel"))
        moment = SecondMoment(20)
        moment.update(of(x))
        found.append(np.asarray(quantize_by_second_moment(of(weight), parameters, moment)))
    np.testing.assert_array_equal(*found)


def test_a_smoothed_weight_is_rounded_as_by_the_moment_of_smoothed_rows():
    generator = np.random.default_rng(2)
    x, weight = correlated_rows(generator, 300, 20, 20), generator.standard_normal((6, 20)).astype(np.float32)
    smoothing = np.exp(generator.standard_normal(20)).astype(np.float32)
    parameters = weight_parameters(weight * smoothing, TensorConfig("int8", "sym", "per_channel"))
    before, after = SecondMoment(20), SecondMoment(20)
    before.update(x)
    after.update(x / smoothing)
    rescaled = quantize_by_second_moment(weight * smoothing, parameters, before, smoothing=smoothing)
    np.testing.assert_array_equal(rescaled, quantize_by_second_moment(weight * smoothing, parameters, after))


def test_scales_may_differ_within_a_row():
    generator = np.random.default_rng(3)
    x, weight = correlated_rows(generator, 300, 16, 6), generator.standard_normal((5, 16)).astype(np.float32)
    scale = np.repeat(np.abs(weight).reshape(5, 2, 8).max(-1) / 7, 8, axis=1).astype(np.float32)
    parameters = QuantizationParameters(scale, np.zeros((5, 16), np.int32), -8, 7)
    moment = SecondMoment(16)
    moment.update(x)
    integers = quantize_by_second_moment(weight, parameters, moment)
    nearest = np.clip(np.round(weight / scale), -8, 7)
    errors = [error_under(moment, each * scale - weight).sum() for each in (integers, nearest)]
    assert errors[0] < 0.6 * errors[1]
    assert np.abs(integers).max() <= 8


def test_groups_are_rounded_each_by_its_own_columns():
    generator = np.random.default_rng(4)
    x, weight = correlated_rows(generator, 300, 24, 8), generator.standard_normal((6, 8)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig("int8", "sym", "per_tensor"))
    grouped = SecondMoment(8, 3)
    grouped.update(x)
    found = quantize_by_second_moment(weight, parameters, grouped)
    for group in range(3):
        alone = SecondMoment(8)
        alone.update(x[:, 8 * group : 8 * group + 8])
        part = slice(2 * group, 2 * group + 2)
        np.testing.assert_array_equal(found[part], quantize_by_second_moment(weight[part], parameters, alone))


@pytest.mark.parametrize("rows", [np.zeros((5, 8)), np.full((5, 8), 1e30), np.zeros((0, 8))])
def test_a_moment_that_says_nothing_leaves_the_nearest_integers(rows):
    weight = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig("int8", "sym", "per_channel"))
    moment = SecondMoment(8)
    with np.errstate(over="ignore", invalid="ignore"):
        moment.update(rows.astype(np.float32))
        found = quantize_by_second_moment(weight, parameters, moment)
    np.testing.assert_array_equal(found, quantize(weight, parameters, 0))


def test_more_columns_than_a_block_are_cut(monkeypatch):
    monkeypatch.setattr(second_moment, "LARGEST_BLOCK", 8)
    generator = np.random.default_rng(6)
    x, weight = correlated_rows(generator, 300, 20, 5), generator.standard_normal((4, 20)).astype(np.float32)
    parameters = weight_parameters(weight, TensorConfig("int8", "sym", "per_channel"))
    moment = SecondMoment(20)
    moment.update(x)
    assert moment.nbytes == 4 * (6 * 6 + 7 * 7 + 7 * 7)
    rounded, nearest = quantize_by_second_moment(weight, parameters, moment), quantize(weight, parameters, 0)
    errors = [error_under(moment, real(each, parameters) - weight).sum() for each in (rounded, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_inputs_beyond_the_memory_have_no_moment(monkeypatch):
    monkeypatch.setattr(input_moments, "MOMENT_BYTES", 4 * (6 * 6 + 3 * 3))
    moments = InputMoments(0)
    for name, columns in (("a", 6), ("b", 7), ("c", 3)):
        for _ in range(2):
            moments.update(name, np.ones((4, columns), np.float32))
    assert {name: moment.rows for name, moment in moments.found.items()} == {"a": 8, "c": 8}
    assert moments.refused == {"b"}


def test_of_large_batches_rows_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(input_moments, "ROWS_OF_A_BATCH", 10)
    x = np.random.default_rng(7).standard_normal((100, 4)).astype(np.float32)
    blocks = []
    for seed in (0, 0, 1):
        moments = InputMoments(seed)
        moments.update("a", x)
        assert moments.found["a"].rows == 10
        blocks.append(next(moments.found["a"].blocks())[3])
    np.testing.assert_array_equal(blocks[0], blocks[1])
    assert not np.array_equal(blocks[0], blocks[2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), largest=st.sampled_from([0, 1, 127, 128, 255]))
def test_steps_come_back_from_a_recipe(seed, largest):
    steps = np.random.default_rng(seed).integers(-largest, largest + 1, (3, 5, 2))
    steps[0, 0, 0] = largest
    np.testing.assert_array_equal(unpack_steps(pack_steps(steps), (3, 5, 2)), steps)


@pytest.mark.parametrize(
    "packed",
    [pack_steps(np.zeros(7, int)), pack_steps(np.zeros(900, int)), pack_steps(np.ones(16, int)), np.ones(9, np.uint8)],
)
def test_steps_of_another_weight_or_none_are_refused(packed):
    with pytest.raises(RecipeError, match="rounding of a weight"):
        unpack_steps(packed, (2, 4))


def test_a_shifted_moment_is_that_of_shifted_rows():
    rows = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) + 3
    shift = np.linspace(0, 5, 12).astype(np.float32)
    for groups in (1, 3):
        known, expected = SecondMoment(12 // groups, groups), SecondMoment(12 // groups, groups)
        known.update(rows)
        expected.update(rows - shift)
        found = known.shifted(shift)
        for one, other in zip(found.sums, expected.sums, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.total, expected.total, rtol=1e-4, atol=1e-4)
    assert SecondMoment(12).shifted(shift).rows == 0
