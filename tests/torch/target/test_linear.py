"""The kernel of integer products in compiled graphs, against torch's operators on the same integers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.torch_ext.target import linear
from inc_autotune.torch_ext.target.linear import (
    ACTIVATIONS,
    Product,
    both_by_torch,
    by_torch,
    can_run,
    integer_linear,
    linear_problem,
    packed_weight,
)

needs_kernel = pytest.mark.skipif(linear_problem() is not None, reason=f"no kernel here: {linear_problem()}")


def product(rows, depth, columns, seed=0, **behind):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-128, 128, (columns, depth), generator=generator, dtype=torch.int8)
    return Product(
        torch.randn(rows, depth, generator=generator),
        20 + torch.rand(depth, generator=generator),
        120 + torch.rand(depth, generator=generator),
        120,
        packed_weight(weight),
        weight.sum(1, dtype=torch.int32),
        (1 + torch.rand(columns, generator=generator)) / (2000 * depth**0.5),
        torch.randn(columns, generator=generator),
        **behind,
    )


def run(given):
    return torch.ops.inc_autotune.integer_linear(*given)


def rounding(columns):
    return {"next_multiplier": torch.full((columns,), 30.0), "next_offset": torch.linspace(0, 255, columns).round()}


def test_a_packed_weight_has_every_integer_once_and_zeros():
    weight = torch.arange(1, 6 * 70 + 1).remainder(127).add(1).to(torch.int8).view(70, 6)
    packed = packed_weight(weight)
    assert packed.shape == (2, 2, 64, 4)
    assert torch.equal(packed[1, 1, 5, :2], weight[69, 4:])
    assert int((packed != 0).sum()) == weight.numel()


@needs_kernel
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 40),
    depth=st.integers(1, 150),
    columns=st.integers(1, 200),
    activation=st.sampled_from(["", *sorted(ACTIVATIONS)]),
    behind=st.sampled_from(["", "residual", "normalized", "rounded", "residual rounded"]),
    has_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_shape_and_all_that_follows(rows, depth, columns, activation, behind, has_bias, seed):
    given = product(rows, depth, columns, seed, activation=activation)
    if not has_bias:
        given = given._replace(bias=None)
    if "residual" in behind or "normalized" in behind:
        given = given._replace(residual=torch.linspace(-2, 2, rows * columns).view(rows, columns))
    if "normalized" in behind:
        weight = torch.linspace(0.5, 2, columns)
        given = given._replace(norm_weight=weight, norm_bias=-weight, epsilon=1e-5)
    if "rounded" in behind:
        given = given._replace(**rounding(columns))
    result, expected = run(given), by_torch(given)
    assert result.dtype == expected.dtype
    assert result.shape == (rows, columns)
    if "rounded" in behind:
        difference = (result.int() - expected.int()).abs()
        assert int(difference.max()) <= 1
        assert int(difference.sum()) <= 1 + difference.numel() / 1000
    else:
        assert torch.allclose(result, expected, rtol=1e-4, atol=1e-4 if "normalized" in behind else 5e-6)


@needs_kernel
@pytest.mark.parametrize("columns", [1, 70, 384])
def test_what_is_normalized_and_its_integers(columns):
    vector = torch.linspace(0.5, 2, columns)
    residual = torch.linspace(-2, 2, 30 * columns).view(2, 15, columns)
    given = product(30, 50, columns, residual=residual, norm_weight=vector, norm_bias=vector, epsilon=1e-5)
    given = given._replace(x=given.x.view(2, 15, 50), **rounding(columns))
    results = torch.ops.inc_autotune.integer_linear_and_integers(*given)
    expected = both_by_torch(given)
    assert torch.allclose(results[0], expected[0], rtol=1e-4, atol=1e-4)
    difference = (results[1].int() - expected[1].int()).abs()
    assert int(difference.max()) <= 1
    assert int(difference.sum()) <= 1 + difference.numel() / 1000


@needs_kernel
@pytest.mark.parametrize("depth", [4, 64, 384])
def test_integers_from_one_product_to_the_next(depth):
    first = product(50, 30, depth, activation="gelu", **rounding(depth))
    integers = run(first)
    second = product(50, depth, 70, seed=1)._replace(x=integers, multiplier=None, offset=None)
    assert integers.dtype == torch.uint8
    assert torch.allclose(run(second), by_torch(second), rtol=1e-5, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_right_everywhere(name):
    points = torch.linspace(-9, 9, 4001)
    # One column whose product is zero, and every point as a bias would do; a residual is added behind the activation.
    weight = torch.zeros(points.numel(), 4, dtype=torch.int8)
    given = Product(
        torch.zeros(1, 4),
        torch.ones(4),
        torch.zeros(4),
        0,
        packed_weight(weight),
        weight.sum(1, dtype=torch.int32),
        torch.ones(points.numel()),
        points,
        name,
    )
    exact = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda y: F.gelu(y, approximate="tanh")}[name](
        points.double()
    )
    assert float((run(given)[0] - exact).abs().max()) < 1e-6


@needs_kernel
def test_extreme_integers_do_not_saturate():
    for value in (127, -128):
        weight = torch.full((64, 256), value, dtype=torch.int8)
        sums = weight.sum(1, dtype=torch.int32)
        one = torch.ones(64)
        x = torch.full((7, 256), 1e9)
        result = integer_linear(x, torch.ones(256), torch.zeros(256), 0, packed_weight(weight), sums, one, None)
        assert torch.equal(result, torch.full((7, 64), 255.0 * value * 256))
        x = torch.tensor([torch.inf, -torch.inf, 3e38, -3e38]).repeat(7, 64)
        result = integer_linear(x, torch.ones(256), torch.zeros(256), 0, packed_weight(weight), sums, one, None)
        assert torch.equal(result, torch.full((7, 64), 255.0 * value * 128))


@needs_kernel
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 64, 500), (20, 64, 200), (1000, 700, 130)])
def test_every_number_of_threads_gives_the_same(threads, rows, depth, columns):
    vector = torch.linspace(0.5, 2, columns)
    residual = torch.linspace(-2, 2, rows * columns).view(rows, columns)
    given = product(rows, depth, columns, residual=residual, norm_weight=vector, norm_bias=vector, epsilon=1e-12)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        result = run(given)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result, run(given))


@needs_kernel
def test_layouts_broadcasts_and_no_rows():
    given = product(12, 40, 70)
    assert torch.equal(run(given._replace(x=given.x.t().contiguous().t())), run(given))
    assert torch.equal(run(given._replace(x=given.x.view(3, 4, 40))), run(given).view(3, 4, 70))
    assert torch.equal(run(given._replace(residual=torch.ones(70))), run(given) + 1)
    assert run(given._replace(x=given.x[:0])).shape == (0, 70)


def test_without_a_compiler_torch_computes_it(monkeypatch):
    given = product(12, 40, 70)
    monkeypatch.setattr(linear, "linear_problem", lambda: "it could not be built")
    assert torch.equal(run(given), by_torch(given))
    given = given._replace(**rounding(70))
    results = torch.ops.inc_autotune.integer_linear_and_integers(*given)
    assert all(map(torch.equal, results, both_by_torch(given)))


def test_a_compiler_that_fails_is_a_reason(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    def load(source):
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(CppCodeCache, "load", staticmethod(load))
    monkeypatch.setattr(linear, "can_run", lambda: True)
    linear._kernel.cache_clear()
    linear_problem.cache_clear()
    try:
        assert linear_problem() == "it could not be built: FileNotFoundError: no g++"
    finally:
        linear._kernel.cache_clear()
        linear_problem.cache_clear()


def test_where_the_processor_has_no_such_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    can_run.cache_clear()
    linear_problem.cache_clear()
    try:
        assert not can_run()
        assert linear_problem() == "the processor has no AVX512-VNNI, or has AMX"
    finally:
        can_run.cache_clear()
        linear_problem.cache_clear()


def test_the_operators_are_sound_under_compilation():
    utilities = ("test_schema", "test_faketensor")
    given = product(5, 40, 70, activation="gelu", **rounding(70))
    torch.library.opcheck(torch.ops.inc_autotune.integer_linear, tuple(given), test_utils=utilities)
    torch.library.opcheck(
        torch.ops.inc_autotune.integer_linear_and_integers, tuple(given._replace(activation="")), test_utils=utilities
    )
    weight = torch.ones(5, 6, dtype=torch.int8)
    torch.library.opcheck(torch.ops.inc_autotune.packed_linear_weight, (weight,), test_utils=utilities)
