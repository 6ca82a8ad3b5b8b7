"""Corrections of bias and weight from the argument to the deployed model, its recipe and its files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization import InputMeans
from inc_autotune.core.result import Recipe
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module
from tests.torch.small_models import TiedWeights, image_batches, small_cnn, vectors

BOTH = ("fast_bias_correction", "weight_correction")
STATIC = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
FOUR_BITS = OpConfig(TensorConfig("int4", "sym", "per_channel", "minmax"), STATIC.activation, "static")


def tuned_cnn(**recipes):
    # For size: what is fast enough depends on the machine.
    return torch_ext.autotune(small_cnn(), image_batches(), recipes=recipes, objective="modelsize", progress=False)


def test_ipex_has_no_corrections():
    with pytest.raises(ArgumentError, match=r"fast_bias_correction.*backend='ipex' has no corrections"):
        torch_ext.autotune(small_cnn(), image_batches(), recipes={"fast_bias_correction": True}, backend="ipex")


@pytest.fixture(scope="module")
def corrected():
    return tuned_cnn(**dict.fromkeys(BOTH, True))


def outputs(model):
    with torch.no_grad():
        return torch.cat([model(x) for x in image_batches(seed=5)])


def test_what_is_asked_for_is_done_and_said(corrected):
    result = corrected.tuning_result
    quantized = [each for each in result.operators if each.approach is not None]
    assert quantized
    assert all(each.corrections == BOTH for each in quantized)
    assert result.corrections[0][0] == " + ".join(BOTH)
    assert {name for name, _ in result.corrections} == {" + ".join(BOTH), "off"}
    assert all(error > 0 for _, error in result.corrections)
    assert f"weight_correction of {len(quantized)} operators" in str(result)


def test_recipe_files_and_both_forms_agree(corrected, tmp_path):
    expected = outputs(torch_ext.convert(corrected))
    torch.testing.assert_close(outputs(corrected), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    recipe = Recipe.from_yaml(corrected.tuning_result.recipe.to_yaml())
    applied = torch_ext.convert(torch_ext.apply_recipe(small_cnn(), recipe))
    torch.testing.assert_close(outputs(applied), expected, rtol=0, atol=0)
    for model in (corrected, torch_ext.convert(corrected)):
        torch_ext.save(model, tmp_path / "model")
        loaded = torch_ext.load(tmp_path / "model", small_cnn())
        torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0)


def test_off_is_what_it_was_before():
    off = tuned_cnn(**dict.fromkeys(BOTH, False))
    assert off.tuning_result.corrections == ()
    assert all(not each.corrections for each in off.tuning_result.operators)
    text = off.tuning_result.recipe.to_yaml()
    assert "corrections" not in text
    assert "input_mean" not in text


def test_auto_keeps_what_lowers_the_error():
    result = tuned_cnn(weight_rounding="nearest").tuning_result
    (best, error), *others = result.corrections
    assert len(others) == 3
    assert error == min(error for _, error in result.corrections) or best == "off"
    made = {name for each in result.operators for name in each.corrections}
    assert made == set() if best == "off" else made == set(best.split(" + "))


def test_what_is_rounded_by_second_moments_is_compared_with_a_corrected_bias_only():
    result = tuned_cnn(weight_rounding="second_moment").tuning_result
    assert {name for name, _ in result.corrections} == {"off", "fast_bias_correction"}


def test_a_shared_weight_stays_shared():
    model = TiedWeights().eval()
    tuned = torch_ext.autotune(
        model, vectors(), recipes=dict.fromkeys(BOTH, True), objective="modelsize", progress=False
    )
    made = {each.name: each.corrections for each in tuned.tuning_result.operators if each.approach == "static"}
    assert made == {"first": BOTH[:1], "second": BOTH[:1]}
    assert tuned.first.weight is tuned.second.weight


class HalfTied(nn.Module):
    """Two Linears read one tensor, and are decided together; the weight of the first is another one's too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = (nn.Linear(16, 16) for _ in range(3))
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.first(x) + self.second(x)))


def test_a_unit_of_which_only_one_weight_is_shared():
    tuned = torch_ext.autotune(
        HalfTied().eval(), vectors(), recipes=dict.fromkeys(BOTH, True), objective="modelsize", progress=False
    )
    made = {each.name: each.corrections for each in tuned.tuning_result.operators}
    assert made == {"first": BOTH[:1], "second": BOTH, "last": BOTH[:1]}
    assert tuned.first.weight is tuned.last.weight
    applied = torch_ext.apply_recipe(HalfTied().eval(), tuned.tuning_result.recipe)
    x = vectors()[0]
    with torch.no_grad():
        assert torch.equal(torch_ext.convert(applied)(x), torch_ext.convert(tuned)(x))


def test_a_recipe_without_its_means(corrected):
    text = corrected.tuning_result.recipe.to_yaml().replace(".input_mean:", ".renamed:", 1)
    with pytest.raises(RecipeError, match="there is no array"):
        Recipe.from_yaml(text)


torch.manual_seed(0)
LAYERS = [
    (nn.Linear(12, 5), (40, 12), (1,)),
    (nn.Linear(12, 5, bias=False), (40, 12), (1,)),
    (nn.Conv2d(6, 4, 3, groups=2), (8, 6, 9, 9), (1,)),
    (nn.Conv2d(6, 6, 3, groups=6, bias=False), (8, 6, 9, 9), (1,)),
    (nn.Conv1d(6, 4, 1, bias=False), (8, 6, 9), (1,)),
    (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), (8, 6, 9, 9), (1,)),
]


@pytest.mark.parametrize("config", [STATIC, FOUR_BITS], ids=["int8", "int4"])
@pytest.mark.parametrize(("layer", "shape", "_"), LAYERS, ids=lambda each: type(each).__name__)
def test_the_mean_output_is_that_of_fp32(layer, shape, _, config):
    """With an input that is large and positive in some channels, and clipped."""
    torch.manual_seed(0)
    x = torch.rand(shape) * torch.arange(1, shape[1] + 1).reshape(-1, *[1] * (len(shape) - 2))
    dims = (0, *range(2, len(shape)))
    high = 0.7 * float(x.max())
    rounded = (x / (high / 255)).round().clamp(0, 255) * (high / 255)
    output = layer(x).detach()
    means = InputMeans(x.mean(dims), rounded.mean(dims))
    ranges = (0.0, high, None, float(output.min()) - 1, float(output.max()) + 1)

    def error(means):
        calibration = OperatorCalibration(*ranges, input_means=means)
        converted = convert_module(prepare_module(layer, config, calibration, reduce_range=True))
        with torch.no_grad():
            return (converted(x) - layer(x)).mean(dims).abs().max()

    # Outputs are rounded too, to 8 bits.
    assert error(means) < (0.5 if config is STATIC else 0.2) * error(None)


@pytest.mark.parametrize(("layer", "shape", "_"), LAYERS, ids=lambda each: type(each).__name__)
def test_the_weight_keeps_its_mean_and_norm(layer, shape, _):
    config = FOUR_BITS.with_corrections(["weight_correction"])
    calibration = OperatorCalibration(0.0, 1.0, None, -1.0, 1.0)
    prepared = prepare_module(layer, config, calibration)
    converted = convert_module(prepared)
    rows, exact = (prepared.weight_rows(each).detach().flatten(1) for each in (prepared.fake_weight(), layer.weight))
    nearest = prepare_module(layer, FOUR_BITS, calibration)
    plain = nearest.weight_rows(nearest.fake_weight()).detach().flatten(1)

    def distance(values):
        return (values.mean(1) - exact.mean(1)).square() + (values.std(1) - exact.std(1)).square()

    assert (distance(rows) <= 1.001 * distance(plain)).all()
    assert distance(rows).sum() < 0.5 * distance(plain).sum()
    assert prepared.weight is not layer.weight
    torch.testing.assert_close(converted.weight, prepared.fake_weight())
