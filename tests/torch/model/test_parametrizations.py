"""Weights that are computed from other parameters are quantized as the numbers they have."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils as utils
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.model.parametrizations import fold_parametrizations

WIDTH = 32


class Symmetric(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Noisy(nn.Module):
    """A weight that is never the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.rand_like(x)


def legacy(function: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(module)

    return apply


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": utils.parametrizations.weight_norm,
    "spectral_norm": utils.parametrizations.spectral_norm,
    "orthogonal": utils.parametrizations.orthogonal,
    "own": lambda module: utils.parametrize.register_parametrization(module, "weight", Symmetric()),
    "old weight_norm": legacy(utils.weight_norm),
    "old spectral_norm": legacy(utils.spectral_norm),
    "pruned": lambda module: utils.prune.l1_unstructured(module, "weight", amount=0.5),
    "pruned twice": lambda module: utils.prune.random_unstructured(
        utils.prune.l1_unstructured(module, "weight", amount=0.2), "weight", amount=0.2
    ),
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[kind](nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 8))
    if kind == "old spectral_norm":
        model(torch.randn(2, WIDTH))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_tuned_saved_loaded_and_replayed(kind: str, tmp_path) -> None:
    model = build(kind)
    before, classes = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    data = [torch.randn(8, WIDTH) for _ in range(8)]
    expected = model(data[0])
    tuned = torch_ext.autotune(model, data, progress=False)
    result = tuned.tuning_result
    assert [(each.name, each.type, each.dtype) for each in result.operators] == [
        ("0", "Linear", "int8"),
        ("2", "Linear", "int8"),
    ]
    assert result.weight_shares == {"int8": 1.0}
    converted = torch_ext.convert(tuned)
    output = converted(data[0])
    assert float((output - expected).detach().square().sum() / expected.square().sum()) < 1e-3
    assert torch.allclose(tuned(data[0]), output, atol=1e-5)
    # The user's model is as it was, class and numbers.
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(data[0]), expected)
    replayed = torch_ext.convert(torch_ext.apply_recipe(model, result.recipe))
    assert torch.equal(replayed(data[0]), output)
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, build(kind))(data[0]), output)
    assert torch.allclose(torch.jit.trace(converted, data[0])(data[1]), converted(data[1]), atol=1e-5)


def test_fine_tuning_trains_the_weight_itself() -> None:
    model = build("weight_norm")
    tuned = torch_ext.autotune(model, [torch.randn(8, WIDTH)], progress=False)
    assert set(tuned.state_dict()) >= {"0.weight", "0.bias", "2.weight"}
    tuned(torch.randn(8, WIDTH)).square().sum().backward()
    assert float(tuned[0].weight.grad.abs().max()) > 0
    assert model[0].parametrizations.weight.original1.grad is None


def test_a_convolution_and_a_parameter_of_another_module() -> None:
    convolution = utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    other = nn.Module()
    other.gain = nn.Parameter(torch.randn(4, 4))
    utils.parametrize.register_parametrization(other, "gain", Symmetric())
    values = convolution.weight.detach(), other.gain.detach()
    model = fold_parametrizations(copy.deepcopy(nn.ModuleList([convolution, other]).eval()))
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(model[0].weight, values[0])
    assert torch.equal(model[1].gain, values[1])
    assert type(convolution) is not nn.Conv2d


def test_a_weight_that_is_not_constant_stays() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    utils.parametrize.register_parametrization(model[0], "weight", Noisy())
    result = torch_ext.autotune(model.eval(), [torch.randn(8, WIDTH) for _ in range(4)], progress=False).tuning_result
    outcomes = {each.name: each for each in result.operators}
    assert (outcomes["0"].dtype, outcomes["1"].dtype) == ("fp32", "int8")
    assert "differently each time" in outcomes["0"].reason
