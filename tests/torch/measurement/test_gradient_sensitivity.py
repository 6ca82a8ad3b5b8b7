"""Sensitivity estimated from gradients, by weights only and by activations only, and the strategy that goes by it."""

import logging

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from inc_autotune.core.analysis.output_error import output_error  # noqa: E402
from inc_autotune.core.analysis.sensitivity import estimate_harms, probe_halves, rank_units  # noqa: E402
from inc_autotune.core.errors import ArgumentError  # noqa: E402
from inc_autotune.core.op_config import FP32, OpConfig  # noqa: E402
from inc_autotune.core.space.units import build_space  # noqa: E402
from inc_autotune.core.tuner import tune as core_tune  # noqa: E402
from inc_autotune.testing import Scores  # noqa: E402
from inc_autotune.torch_ext.adaptor import TorchAdaptor  # noqa: E402
from tests.torch.small_models import (  # noqa: E402
    FEATURES,
    CalledTwice,
    Encoder,
    Text,
    TiedWeights,
    bert,
    gpt2,
    id_batches,
    image_batches,
    outlier_mlp,
    padded,
    small_cnn,
    tune,
    vectors,
)


class Residual(nn.Module):
    """Many Linears, each of which adds to a sum; `bad` ones read a channel 200 times as large as the others."""

    def __init__(self, count=24, bad=()):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(count))
        self.factors = nn.Parameter(torch.ones(count, FEATURES), requires_grad=False)
        with torch.no_grad():
            for index in bad:
                self.factors[index, 3] = 200.0
                self.layers[index].weight[:, 3] /= 200.0

    def forward(self, x):
        for factor, layer in zip(self.factors, self.layers, strict=True):
            x = x + 0.2 * torch.tanh(layer(x * factor))
        return x


class InPlace(nn.Module):
    """A ReLU that writes into what the convolution returned."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3))

    def forward(self, x):
        return self.layers(x)


class Rounds(nn.Module):
    """Its second half knows no gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 4)

    def forward(self, x):
        return self.second(self.first(x)).detach()


class Classes(Rounds):
    """Returns integers only."""

    def forward(self, x):
        return self.second(self.first(x)).argmax(-1)


def prepared(model, data, samples=64):
    """An adaptor after calibration, the space of static int8 units, and all of them quantized."""
    adaptor = TorchAdaptor()
    size = adaptor.calibrate(model, data, (samples,))
    offered = adaptor.query_fw_capability(model)["opwise"]
    options = {key: tuple(map(OpConfig.from_dict, configs)) for key, configs in offered.items()}
    static = {key: (*(each for each in configs if each.approach == "static"), FP32) for key, configs in options.items()}
    space = build_space({key: each for key, each in static.items() if len(each) > 1}, adaptor.groups(model))
    return adaptor, space, space.default(size)


def measured_sensitivities(adaptor, model, space, start):
    alone = {unit.name: space.tune_cfg(space.only(start, [unit.name])) for unit in space.units}
    return {name: output_error(adaptor, tune_cfg, model) for name, tune_cfg in alone.items()}


MODELS = {
    "linears": lambda: (outlier_mlp(), vectors()),
    "convolutions": lambda: (small_cnn(), image_batches(size=16)),
    "in place": lambda: (InPlace().eval(), image_batches(size=16)),
    "called twice": lambda: (CalledTwice().eval(), vectors()),
    "tied weights": lambda: (TiedWeights().eval(), vectors()),
    "integer input": lambda: (Text().eval(), id_batches()),
    "encoder": lambda: (Encoder().eval(), list(torch.stack(vectors(5)).transpose(0, 1).split(4))),
    "bert, padded": lambda: (bert(), [padded(ids) for ids in id_batches()]),
    "gpt2": lambda: (gpt2(), id_batches()),
}


# How near depends on the bits: estimates leave out that the error of a weight is the same at every position.
@pytest.mark.usefixtures("eight_bit_weights")
@pytest.mark.parametrize("name", MODELS)
def test_estimates_are_near_the_measured_sensitivity(name):
    model, data = MODELS[name]()
    adaptor, space, start = prepared(model, data)
    measured = measured_sensitivities(adaptor, model, space, start)
    for harm in estimate_harms(adaptor, space, start):
        assert 0.3 < harm.error / measured[harm.unit] < 3.0


@pytest.mark.parametrize("bad", [(5,), (2, 11, 20), tuple(range(1, 21, 2))])
def test_planted_units_are_ranked_first(bad):
    model = Residual(40, bad).eval()
    adaptor, space, start = prepared(model, vectors())
    ranked = rank_units(adaptor, model, space, start)
    assert {harm.unit for harm in ranked[: len(bad)]} == {f"layers.{index}" for index in bad}
    assert any(harm.estimated for harm in ranked)


def test_the_model_stays_as_it_is():
    model = Residual(3).eval()
    model.layers[0].requires_grad_(False)
    model.layers[2].train()
    before = {name: (parameter.requires_grad, parameter.clone()) for name, parameter in model.named_parameters()}
    adaptor, space, start = prepared(model, vectors())
    with torch.no_grad():
        first = estimate_harms(adaptor, space, start)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert estimate_harms(adaptor, space, start) == first
    assert torch.is_grad_enabled()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert parameter.grad is None
        assert torch.equal(parameter, before[name][1])
    assert [layer.training for layer in model.layers] == [False, False, True]
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_are_estimated_by_what_the_last_operator_returns():
    adaptor, space, start = prepared(Classes().eval(), vectors())
    assert all(0 < harm.error < 0.01 for harm in estimate_harms(adaptor, space, start))


def test_a_model_without_gradients_is_measured_instead(caplog):
    model = Rounds().eval()
    adaptor, space, start = prepared(model, vectors())
    with caplog.at_level(logging.WARNING):
        assert estimate_harms(adaptor, space, start) is None
    assert "no gradients" in caplog.text
    assert len(rank_units(adaptor, model, space, start)) == len(space.units)


def test_whether_weights_or_activations_do_the_harm_is_found():
    model = Residual(4, bad=(1,)).eval()
    with torch.no_grad():
        # One weight a hundred times as large as the others of its row costs these their bits.
        model.layers[2].weight[:, 5] *= 100.0
        model.factors[2, 5] /= 100.0
    adaptor, space, start = prepared(model, vectors())
    harms = {
        harm.unit: probe_halves(adaptor, model, space, start, harm) for harm in rank_units(adaptor, model, space, start)
    }
    assert harms["layers.1"].activation_share > 0.9
    assert harms["layers.2"].activation_share < 0.5
    for harm in harms.values():
        assert harm.weight_error + harm.activation_error == pytest.approx(harm.error, rel=0.5)


@pytest.mark.parametrize("name", ["convolutions", "bert, padded", "gpt2"])
def test_errors_of_weights_only_and_of_activations_only_make_the_whole(name):
    model, data = MODELS[name]()
    adaptor, space, start = prepared(model, data)
    for harm in rank_units(adaptor, model, space, start):
        probed = probe_halves(adaptor, model, space, start, harm)
        assert 0.3 < (probed.weight_error + probed.activation_error) / harm.error < 3.0


def test_hawq_v2_lets_the_most_harmful_units_fall_back_first():
    # fp32, all quantized, and then one unit after the other.
    tuned = tune(
        Residual(20, bad=(7, 13)).eval(), vectors(), Scores(1.0, 0.5, 0.5, 1.0), strategy="hawq_v2", approach="static"
    )
    result = tuned.tuning_result
    assert result.met
    linear = [each for each in result.operators if each.type == "Linear"]
    assert {each.name for each in linear if each.dtype == "fp32"} == {"layers.7", "layers.13"}
    # The two that fell back were probed, nothing was measured unit by unit.
    assert all(harm.estimated for harm in result.harms)


def test_hawq_v2_needs_gradients():
    from inc_autotune.core.arguments.autotune import validate_arguments
    from inc_autotune.core.search.strategy import STRATEGIES
    from inc_autotune.testing import NumpyAdaptor, random_model

    arguments = validate_arguments(strategies=STRATEGIES, backends=["default"], strategy="hawq_v2", progress=False)
    with pytest.raises(ArgumentError, match=r"needs gradients.*'auto'.*'mse'"):
        core_tune(NumpyAdaptor(), random_model(), [], lambda model: 1.0, arguments)


def test_candidates_are_compared_on_samples_that_made_no_range():
    """The second batch is held out; its outlier makes the range of the tuned model, not of what is compared on it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES)).eval()
    data = vectors(4, size=8)
    data[1][0, 0] = 50.0
    adaptor, space, start = prepared(model, data)
    tune_cfg = space.tune_cfg(start)
    final = adaptor.quantize(tune_cfg, model, None)
    compared = adaptor.quantize({**tune_cfg, "without_held_out": True}, model, None)
    assert final[0].input_scale > 5 * compared[0].input_scale


@pytest.mark.parametrize(("size", "equal"), [(1, True), (8, False)])
def test_of_one_batch_a_part_is_held_out_unless_it_cannot_be_cut(size, equal):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES)).eval()
    adaptor, space, start = prepared(model, vectors(1, size=size))
    tune_cfg = space.tune_cfg(start)
    one, other = (adaptor.quantize({**tune_cfg, "without_held_out": flag}, model, None) for flag in (False, True))
    assert torch.equal(one[0].input_scale, other[0].input_scale) is equal


def test_without_time_the_estimate_is_that_of_fewer_samples():
    model = Residual(40, bad=(5,)).eval()
    adaptor, space, start = prepared(model, vectors())
    every = {harm.unit: harm.error for harm in estimate_harms(adaptor, space, start)}
    asked = []
    fewer = estimate_harms(adaptor, space, start, expired=lambda: asked.append(0) or True)
    assert len(asked) == 1
    assert fewer[0].unit == "layers.5"
    assert 0.3 < fewer[0].error / every["layers.5"] < 3.0
