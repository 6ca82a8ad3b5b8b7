"""The kernel that computes attention with products of bfloat16, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.torch_ext.target import attention
from inc_autotune.torch_ext.target.attention import (
    AttentionCall,
    attention_problem,
    bf16_attention,
    in_bf16,
    is_worth_it,
    takes,
)

pytestmark = pytest.mark.skipif(attention_problem() is not None, reason=f"no kernel here: {attention_problem()}")


def tensors(batch, heads, key_heads, queries, keys, depth, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, rows, count, depth, generator=generator).transpose(1, 2)
        for count, rows in ((heads, queries), (key_heads, keys), (key_heads, keys))
    ]


def expected(query, key, value, mask=None, causal=False, scale=0.2):
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    doubles = (each.double() for each in (query, key, value))
    return F.scaled_dot_product_attention(*doubles, mask, is_causal=causal, scale=scale, enable_gqa=True)


def relative_error(actual, exact):
    return float((actual - exact).square().sum() / exact.square().sum())


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch):
    monkeypatch.setattr(attention, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(attention, "LEAST_ROWS", 1)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    key_heads=st.integers(1, 3),
    queries=st.integers(1, 70),
    keys=st.integers(1, 140),
    depth=st.integers(1, 100),
    kind=st.sampled_from(["none", "causal", "bool", "float", "keys", "one"]),
    seed=st.integers(0, 100),
)
def test_any_shape_and_mask(batch, groups, key_heads, queries, keys, depth, kind, seed):
    heads = groups * key_heads
    query, key, value = tensors(batch, heads, key_heads, queries, keys, depth, seed)
    kept = torch.rand(batch, 1, queries, keys, generator=torch.Generator().manual_seed(seed)) > 0.3
    kept[..., 0] = True
    mask = {
        "bool": kept,
        "float": torch.where(kept, 0.5, -torch.inf),
        "keys": kept[:, :, :1],
        "one": torch.ones(1, 1, queries, 1, dtype=torch.bool),
    }.get(kind)
    arguments = (query, key, value, mask, kind == "causal", 0.2)
    assert takes(query, key, value, mask)
    result = bf16_attention(*arguments)
    assert result.shape == (batch, heads, queries, depth)
    assert float((result - expected(*arguments)).abs().max()) < 0.02 * float(value.abs().max())


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("heads", [1, 3])
def test_every_number_of_threads_gives_the_same(threads, heads):
    query, key, value = tensors(1, heads, heads, 500, 300, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        result = bf16_attention(query, key, value, None, True, 0.2)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result, bf16_attention(query, key, value, None, True, 0.2))
    assert relative_error(result, expected(query, key, value, causal=True)) < 1e-4


def test_a_query_that_sees_no_key_gives_zeros_as_in_torch():
    query, key, value = tensors(1, 2, 2, 20, 30, 32)
    mask = torch.ones(1, 1, 20, 30, dtype=torch.bool)
    mask[:, :, 3] = False
    result = bf16_attention(query, key, value, mask, False, 0.2)
    assert torch.equal(result[:, :, 3], torch.zeros(1, 2, 32))
    assert relative_error(result, expected(query, key, value, mask).nan_to_num()) < 1e-4


def test_extreme_scores_and_masks_of_the_smallest_number():
    query, key, value = tensors(1, 2, 2, 20, 30, 32)
    mask = torch.zeros(1, 1, 20, 30)
    mask[..., 10:] = torch.finfo(torch.float32).min
    result = bf16_attention(query * 100, key, value, mask, False, 1.0)
    assert relative_error(result, expected((query * 100).bfloat16(), key.bfloat16(), value, mask, False, 1.0)) < 1e-3


@pytest.mark.parametrize("scale", [None, 0.0, 0.3])
def test_a_call_has_the_scale_that_it_names(scale):
    query, key, value = tensors(1, 2, 2, 20, 30, 32)
    call = AttentionCall(query, key, value, scale=scale)
    exact = F.scaled_dot_product_attention(*(each.double() for each in (query, key, value)), scale=scale)
    assert relative_error(in_bf16(call), exact) < 1e-4


def test_what_is_no_number_stays_so():
    query, key, value = tensors(1, 2, 2, 20, 30, 32)
    query[0, 1, 5, 3] = torch.nan
    result = bf16_attention(query, key, value, None, False, 0.2)
    assert result[0, 1, 5].isnan().all()
    assert int(result.isnan().any(-1).sum()) == 1


def test_layouts_that_do_not_end_contiguously():
    query, key, value = (each.transpose(2, 3).contiguous().transpose(2, 3) for each in tensors(2, 3, 3, 40, 50, 24))
    assert query.stride(-1) != 1
    result = bf16_attention(query, key, value, None, False, 0.2)
    assert relative_error(result, expected(query, key, value)) < 1e-4


def test_what_the_kernel_does_not_take():
    query, key, value = tensors(1, 3, 3, 8, 8, 16)
    assert not takes(query.double(), key.double(), value.double(), None)
    assert not takes(query, key, value[..., :8], None)
    assert not takes(query, key[:, :2], value[:, :2], None)
    assert not takes(query[0], key[0], value[0], None)
    assert not takes(query, key, value, torch.zeros(8, 8, dtype=torch.float64))
    assert not takes(*tensors(1, 1, 1, 4, 4, 300), None)


def test_small_problems_are_torchs_own(monkeypatch):
    monkeypatch.undo()
    query, key, value = tensors(1, 2, 1, 8, 8, 16)
    assert not is_worth_it(query, key)
    exact = F.scaled_dot_product_attention(query, key, value, scale=0.2, enable_gqa=True)
    assert torch.equal(bf16_attention(query, key, value, None, False, 0.2), exact)


def test_without_a_compiler_float32_computes_it(monkeypatch):
    query, key, value = tensors(2, 4, 2, 64, 64, 32)
    monkeypatch.setattr(attention, "attention_problem", lambda: "it could not be built")
    exact = F.scaled_dot_product_attention(query, key, value, scale=0.2, enable_gqa=True)
    assert torch.equal(bf16_attention(query, key, value, None, False, 0.2), exact)


def test_a_compiler_that_fails_is_a_reason(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    def load(source):
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(CppCodeCache, "load", staticmethod(load))
    attention._kernel.cache_clear()
    attention_problem.cache_clear()
    try:
        assert attention_problem() == "it could not be built: FileNotFoundError: no g++"
    finally:
        attention._kernel.cache_clear()
        attention_problem.cache_clear()


def test_the_operator_is_sound_under_compilation():
    query, key, value = tensors(2, 2, 2, 40, 40, 32)
    arguments = (query, key, value, torch.ones(40, 40, dtype=torch.bool), False, 0.2)
    torch.library.opcheck(
        torch.ops.inc_autotune.bf16_attention, arguments, test_utils=("test_schema", "test_faketensor")
    )
