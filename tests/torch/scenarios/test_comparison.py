"""`compare` on real models: where errors are planted, they are found."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, DataError, RecipeError


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu_(self.norm(self.first(x)))))


def made(model, data, **given):
    return torch_ext.autotune(model.eval(), data, recipes={"smooth_quant": False}, progress=False, **given)


@pytest.fixture(scope="module")
def convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    data = [torch.randn(4, 3, 12, 12) for _ in range(6)]
    return model, data, made(model, data)


@pytest.mark.filterwarnings("ignore")
def test_every_operator_of_both_forms_is_compared_and_nothing_is_changed(convolutions):
    model, data, tuned = convolutions
    before = copy.deepcopy(model.state_dict())
    quantized = torch_ext.convert(tuned)
    found = {form: torch_ext.compare(model, each, data) for form, each in {"tuned": tuned, "int8": quantized}.items()}
    for comparison in found.values():
        assert comparison.samples == 24
        assert not comparison.notes
        names = [each.name for each in comparison.operators]
        assert names == ["0", "2.first", "2.second", "5", "output"]
        for each in comparison.operators[:-1]:
            # A ReLU behind a convolution, a folded batch norm and a sum in place are no errors.
            assert 20 < each.sqnr < 70, each
            assert each.alone >= each.sqnr - 3, each
            assert each.saturated is not None
            assert each.saturated < 0.02
            assert each.form == "int8 static"
        assert comparison.operators[0].sqnr == pytest.approx(comparison.operators[0].alone)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in (*model.modules(), *tuned.modules(), *quantized.modules()))
    # What is measured is what the model computes.
    with torch.no_grad():
        x = torch.cat(data)
        noise = (quantized(x) - model(x)).square().sum()
        expected = 10 * math.log10(model(x).square().sum() / noise)
    assert found["int8"].output.sqnr == pytest.approx(expected, abs=0.5)


@pytest.mark.filterwarnings("ignore")
def test_data_beyond_the_calibrated_range_is_seen(convolutions):
    model, data, tuned = convolutions
    comparison = torch_ext.compare(model, tuned, [10 * each for each in data])
    first = comparison.operators[0]
    assert first.saturated > 0.3
    assert first.observed[1] > 5 * first.calibrated[1]
    assert "sampling_sizes" in comparison.what_to_try()[0]


@pytest.mark.filterwarnings("ignore")
def test_an_operator_that_loses_is_named():
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(5)]
    with torch.no_grad():
        layers[3].weight[:, 5] = 0.01
        layers[2].weight[5] *= 200  # one channel of 32 makes the range
    model = nn.Sequential(*layers).eval()
    data = [torch.randn(16, 32) for _ in range(4)]
    comparison = torch_ext.compare(model, torch_ext.convert(made(model, data)), data)
    assert comparison.worst[0].name == "3"
    assert any("'3': {'weight': {'dtype': ['fp32']}}" in each for each in comparison.what_to_try())
    fp32 = made(model, data, op_name_dict={"3": {"weight": {"dtype": ["fp32"]}}})
    after = torch_ext.compare(model, fp32, data)
    assert {each.name: each.form for each in after.operators}["3"] == "fp32"
    assert after.output.sqnr > comparison.output.sqnr + 6


@pytest.mark.filterwarnings("ignore")
def test_loaded_models_and_hidden_products(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    data = [torch.randn(4, 6, 16) for _ in range(4)]
    torch_ext.save(torch_ext.convert(made(model, data)), tmp_path / "int8")
    comparison = torch_ext.compare(model, torch_ext.load(tmp_path / "int8", model), data, samples=8)
    assert comparison.samples == 8
    assert "layers.0.self_attn.q_proj" in [each.name for each in comparison.operators]
    assert all(each.sqnr > 20 for each in comparison.operators)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_compared_is_refused(convolutions):
    model, data, tuned = convolutions
    with pytest.raises(ArgumentError, match="a Sequential without a recipe"):
        torch_ext.compare(model, model, data)
    with pytest.raises(RecipeError, match="is not in both models"):
        torch_ext.compare(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), tuned, data)
    with pytest.raises(DataError, match="data yields items"):
        torch_ext.compare(model, tuned, [torch.randn(4, 7)])
