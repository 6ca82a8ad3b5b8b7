"""Recurrent cells and bilinear layers with Linear children compute what torch's own compute."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.model.expanded_form import ExpandedForm
from inc_autotune.torch_ext.model.expansion import expanded_copy

INPUTS, STATES, BATCH = 6, 5, 3

CELLS: dict[str, Callable[..., nn.Module]] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "rnn": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def assert_equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_cells_equal_torchs_batched_or_not_with_a_state_or_without(name: str, bias: bool) -> None:
    cell = made(lambda: CELLS[name](INPUTS, STATES, bias=bias))
    expanded = expanded_copy(cell)
    assert isinstance(expanded, ExpandedForm)
    assert isinstance(expanded, type(cell))
    for batch in ((BATCH,), ()):
        x, state = numbers(*batch, INPUTS), numbers(*batch, STATES, seed=2)
        given = (state, numbers(*batch, STATES, seed=3)) if name == "lstm" else state
        for arguments in ((x,), (x, None), (x, given)):
            assert_equal(expanded(*arguments), cell(*arguments))
    for twin in (copy.deepcopy(expanded), pickle.loads(pickle.dumps(expanded))):
        assert_equal(twin(x, given), cell(x, given))
    for parameter in cell._parameters:
        assert_equal(getattr(expanded, parameter), getattr(cell, parameter))
    assert expanded.linear_hh.weight.data_ptr() == cell.weight_hh.data_ptr()
    for wrong in ((numbers(BATCH, STATES),), (x, numbers(BATCH, INPUTS)), (x, numbers(1, 1, STATES))):
        with pytest.raises(RuntimeError, match="Allowed"):
            expanded(*(wrong if name != "lstm" else (wrong[0], (wrong[-1], given[1]))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (BATCH,), (BATCH, 2)])
@torch.no_grad()
def test_a_bilinear_layer_equals_torchs(shape: tuple[int, ...], bias: bool) -> None:
    layer = made(lambda: nn.Bilinear(INPUTS, 7, STATES, bias=bias))
    expanded = expanded_copy(layer)
    given = numbers(*shape, INPUTS), numbers(*shape, 7, seed=2)
    for twin in (expanded, copy.deepcopy(expanded), pickle.loads(pickle.dumps(expanded))):
        assert isinstance(twin, nn.Bilinear)
        if shape:
            assert_equal(twin(*given), layer(*given))
        else:  # torch's own fails on vectors
            assert_equal(twin(*given), layer(*(x[None] for x in given))[0])
    assert_equal(expanded.weight, layer.weight)
    assert expanded.projection.weight.data_ptr() == layer.weight.data_ptr()
    with pytest.raises(RuntimeError, match="Allowed"):
        expanded(numbers(2, INPUTS), numbers(1, 7))
