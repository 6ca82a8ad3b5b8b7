"""Integers of several bits without gaps, and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inc_autotune.torch_ext.modules.integer_rows import integers_of, stored

BITS = st.sampled_from([2, 3, 4, 8])


@given(bits=BITS, rows=st.integers(1, 5), eighths=st.integers(1, 9), seed=st.integers(0, 1000))
def test_what_is_stored_is_read_back(bits, rows, eighths, seed):
    numbers = torch.Generator().manual_seed(seed)
    limit = 1 << (bits - 1)
    integers = torch.randint(-limit, limit, (rows, 8 * eighths), generator=numbers)
    packed = stored(integers, bits)
    assert packed.dtype == torch.int8
    assert packed.shape == (rows, eighths * bits)
    assert torch.equal(integers_of(packed, bits), integers.to(torch.int8))
    assert torch.equal(integers_of(packed[rows - 1 :], bits)[0], integers[rows - 1].to(torch.int8))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_torchscript_reads_the_same(bits):
    integers = torch.arange(64).reshape(2, 32) % (1 << bits) - (1 << (bits - 1))
    assert torch.equal(torch.jit.script(integers_of)(stored(integers, bits), bits), integers.to(torch.int8))
