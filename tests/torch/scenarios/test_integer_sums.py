"""Nets of residual blocks that add up integers: on request, or where tuning finds time and a gain for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.core.result import Recipe
from inc_autotune.core.search.candidates import Candidates
from tests.torch.small_models import dtypes, tune


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *(Block(8) for _ in range(3)), nn.Conv2d(8, 4, 1)).eval()


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 3, 10, 10) for _ in range(3)]


def kinds(model: nn.Module, x: Tensor) -> list[str]:
    frozen = torch.jit.freeze(torch.jit.trace(model, x))
    return [node.kind() for node in frozen.inlined_graph.nodes()]


@torch.no_grad()
def test_on_request_sums_stay_integers(net, images, tmp_path):
    usual, asked = (
        torch_ext.autotune(net, images, recipes={"residual_add_fusion": each}, progress=False) for each in (False, True)
    )
    assert set(dtypes(asked).values()) == {"int8"}
    plain, integer = torch_ext.convert(usual), torch_ext.convert(asked)
    expected, found = net(images[0]), integer(images[0])
    assert not torch.equal(found, plain(images[0]))
    assert signal_to_noise_db(expected, found) > signal_to_noise_db(expected, plain(images[0])) - 4
    floats = ("aten::quantize_per_tensor", "aten::dequantize", "aten::add")
    assert [kinds(integer, images[0]).count(kind) for kind in floats] == [1, 1, 0]
    assert kinds(plain, images[0]).count("aten::add") > 0
    torch_ext.save(integer, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, net)(images[0]), found)
    recipe = Recipe.from_yaml(asked.tuning_result.recipe.to_yaml())
    assert torch.equal(torch_ext.convert(torch_ext.apply_recipe(net, recipe))(images[0]), found)


@torch.no_grad()
def test_tuning_tries_them_where_time_is_left(net, images, monkeypatch):
    expected = net(images[0])

    def closeness(model: nn.Module) -> float:
        return 1.0 - float((model(images[0]) - expected).norm() / expected.norm())

    monkeypatch.setattr(Candidates, "gain", lambda _, assignment, *others: 1.5 if assignment.variant is None else 1.8)
    criterion = {"accuracy_criterion": {"absolute": 0.5}}
    tuned = tune(net, images, closeness, tuning_time=60, **criterion)
    assert tuned.tuning_result.trials[-1].label.endswith("sums in integers")
    assert "aten::add" not in kinds(torch_ext.convert(tuned), images[0])
    assert len(tune(net, images, closeness, **criterion).tuning_result.trials) == 1
    refused = tune(net, images, closeness, tuning_time=60, recipes={"residual_add_fusion": False}, **criterion)
    assert not any("sums" in trial.label for trial in refused.tuning_result.trials)


def test_the_request_is_true_false_or_nothing(net, images):
    with pytest.raises(ArgumentError, match=r"residual_add_fusion.*Allowed: True, False or None"):
        torch_ext.autotune(net, images, recipes={"residual_add_fusion": "yes"})
    with pytest.raises(ArgumentError, match=r"residual_add_fusion.*backend='ipex' decides"):
        torch_ext.autotune(net, images, recipes={"residual_add_fusion": True}, backend="ipex")
