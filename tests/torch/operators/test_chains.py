"""Which convolutions may hand on integers: those of which nothing is kept, and that reach other convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.torch_ext.operators.merged_trace import merged, without
from inc_autotune.torch_ext.operators.trace import trace_model


class Two(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.linear, self.kept, self.function = nn.Linear(5, 4), None, forward

    def forward(self, x: Tensor):
        return self.function(self, x)


def keeps(model: Two, x: Tensor) -> Tensor:
    model.kept = model.first(x)
    return model.second(model.kept)


def writes_through_a_view(model: Two, x: Tensor) -> Tensor:
    x = model.first(x)
    x[:, :2].relu_()
    return model.second(x)


def returns_what_waits(model: Two, x: Tensor) -> tuple[Tensor, Tensor]:
    x = F.silu(model.first(x))
    return model.second(x), x.flatten(1)


CHAINED = {
    "at once": lambda model, x: model.second(model.first(x)),
    "through a ReLU in place": lambda model, x: model.second(F.relu(model.first(x), inplace=True)),
    "through a BatchNorm that is folded": lambda model, x: model.second(F.relu(model.norm(model.first(x)))),
    "through a sum": lambda model, x: model.second(model.first(x) + 1),
    "and to others": lambda model, x: (model.second(model.first(x)), model.linear(model.first(x)).softmax(1)),
    "through views": lambda model, x: model.second(model.first(x).transpose(2, 3).flatten(2).unsqueeze(3)),
}
NOT_CHAINED = {
    "no convolution reads it": lambda model, x: model.linear(model.first(x)).softmax(1),
    "it is returned": lambda model, x: (model.second(y := model.first(x)), y),
    "it is stored": keeps,
    "what waits is returned": returns_what_waits,
    "written through a view": writes_through_a_view,
    "behind what cannot wait": lambda model, x: model.second(model.first(x).softmax(1)),
}


def chains(function) -> dict[str, frozenset[str]]:
    return dict(trace_model(Two(function).eval(), (torch.randn(2, 3, 5, 5),)).chains)


@pytest.mark.parametrize("name", CHAINED)
def test_convolutions_that_hand_on_integers(name):
    assert chains(CHAINED[name]) == {"first": frozenset({"second"})}


@pytest.mark.parametrize("name", NOT_CHAINED)
def test_convolutions_that_do_not(name):
    assert chains(NOT_CHAINED[name]) == {}


def test_every_batch_and_every_operator_has_to_agree():
    x = (torch.randn(2, 3, 5, 5),)
    one, other = (trace_model(Two(each).eval(), x) for each in (CHAINED["at once"], keeps))
    assert merged(one, one).chains == one.chains
    assert merged(one, other).chains == {}
    assert without(one, {"second"}, "for a test").chains == {}


def sums(function) -> frozenset[str]:
    return trace_model(Two(function).eval(), (torch.randn(2, 4, 5, 5),)).shared_sums


def residual(model: Two, x: Tensor) -> Tensor:
    """A block behind another one, whose sum is read by a convolution and by the next sum."""
    model.first = model.second
    total = torch.relu_(model.second(x) + model.second(x))
    total = model.second(total) + total
    return model.linear(total).softmax(1)


def test_sums_that_go_into_further_sums():
    assert sums(residual) == {"second"}
    once = lambda model, x: model.linear(model.second(model.second(x) + model.second(x))).softmax(1)  # noqa: E731
    assert sums(once) == frozenset(), "a sum that one convolution alone reads"
    no_sum = lambda model, x: model.linear(model.second(y := model.second(x)) + y).softmax(1)  # noqa: E731
    assert sums(no_sum) == frozenset(), "what goes into the sum is no sum"
    trace = trace_model(Two(residual).eval(), (torch.randn(2, 4, 5, 5),))
    assert merged(trace, trace).shared_sums == {"second"}
    assert without(trace, {"second"}, "for a test").shared_sums == frozenset()
