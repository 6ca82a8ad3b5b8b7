"""Forms of smoothing that are not SmoothQuant's, from the search to recipes and files."""

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.modules import QuantizedLinear

SCALES, OFFSETS = torch.logspace(-1, 1, 32), torch.tensor([5.0, -5.0]).repeat(16)
"""Channels of different sizes, for which a scale helps, on both sides of zero, for which a shift does."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(32, 24), nn.Linear(32, 24, bias=False), nn.Linear(24, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.one(x)) * torch.sigmoid(self.two(x)))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(seed)) * SCALES + OFFSETS * SCALES


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def tuned_with(model: nn.Module, forms: list[str], rounding: str = "auto") -> nn.Module:
    rules = {"op_name_dict": {".*": {"weight": {"dtype": "int8"}, "activation": {"dtype": "uint8"}}}}
    data = [rows(16, seed) for seed in range(8)]
    return torch_ext.autotune(
        model,
        data,
        approach="static",
        smoothquant_args={"alpha": "auto", "auto_alpha_args": {"forms": forms}},
        recipes={"weight_rounding": rounding},
        progress=False,
        **rules,
    )


@pytest.mark.parametrize("rounding", ["nearest", "second_moment"])
@torch.no_grad()
def test_a_shift_is_found_where_channels_lie_far_from_zero_and_comes_back(model, rounding, tmp_path):
    tuned = tuned_with(model, ["shift"], rounding)
    result, recipe = tuned.tuning_result, tuned.tuning_recipe
    (name, least), (other, before) = result.smoothing[:2]
    assert [", shifted" in each for each in (name, other)] == [True, False]
    if rounding == "nearest":  # forms are compared so
        assert least < before / 2
    assert {each.smoothing_form for each in result.operators if each.name in ("one", "two")} == {"shifted"}
    x, deployed = rows(256, 100), torch_ext.convert(tuned)
    assert (deployed(x) - model(x)).square().sum() < 1e-4 * model(x).square().sum()
    assert isinstance(deployed.one, QuantizedLinear)
    assert deployed.one.input_shift is not None
    recipe.save(tmp_path / "recipe.yaml")
    applied = torch_ext.apply_recipe(model, type(recipe).load(tmp_path / "recipe.yaml"))
    assert torch.equal(torch_ext.convert(applied)(x), deployed(x))
    torch_ext.save(tuned, tmp_path / "saved")
    assert torch.equal(torch_ext.convert(torch_ext.load(tmp_path / "saved", Net()))(x), deployed(x))
    traced = torch.jit.freeze(torch.jit.trace(deployed, x))
    torch.testing.assert_close(traced(x), deployed(x))


def test_free_exponents_are_never_worse_on_the_held_out_samples(model):
    errors = {name: error for name, error in tuned_with(model, ["exponents", "norm"]).tuning_result.smoothing if error}
    assert min(errors.values()) == next(iter(errors.values()))
