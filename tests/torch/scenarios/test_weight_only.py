"""Linears with weights of 8 to 2 bits and float activations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules.weight_only import WeightOnlyLinear
from inc_autotune.torch_ext.target import weight_only


class Net(nn.Module):
    """The second Linear reads 48 columns, into which no group of 32 fits; the third has correlated inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.odd, self.last = nn.Linear(128, 48), nn.Linear(48, 128), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.odd(torch.relu(self.first(x)))))


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(1)
    return [torch.randn(8, 128) for _ in range(8)]


def quantized(net, batches, weight, **arguments):
    rule = {"Linear": {"weight": {key: [value] for key, value in weight.items()}}}
    settings = {"approach": "weight_only", "progress": False, "smoothquant_args": {"alpha": 0.5}, **arguments}
    return torch_ext.autotune(net, batches, op_type_dict=rule, **settings)


def outputs(model, batches):
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches])


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(
    ("weight", "groups", "least"),
    [
        ({"dtype": "int8"}, {1}, 40),
        ({"dtype": "int4"}, {1, 4}, 15),
        ({"dtype": "int4", "scheme": "asym", "granularity": "per_channel"}, {1}, 13),
        ({"dtype": "int4", "scheme": "asym"}, {1, 4}, 16),
    ],
)
def test_weights_are_integers_and_activations_are_not(net, batches, weight, groups, least, tmp_path):
    tuned = quantized(net, batches, weight)
    converted = torch_ext.convert(tuned)
    linears = [each for each in converted.modules() if isinstance(each, WeightOnlyLinear)]
    assert len(linears) == 3
    assert {each.weight_scale.shape[1] for each in linears} == groups
    expected, y = outputs(net, batches), outputs(converted, batches)
    assert signal_to_noise_db(expected, y) > least
    assert signal_to_noise_db(outputs(tuned, batches), y) > 40
    torch_ext.save(converted, tmp_path / "saved")
    assert torch.equal(outputs(torch_ext.load(tmp_path / "saved", net), batches), y)
    recipe = tuned.tuning_result.recipe
    assert torch.equal(outputs(torch_ext.convert(torch_ext.apply_recipe(net, recipe)), batches), y)


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(("dtype", "bits", "least"), [("int3", 3, 10), ("int2", 2, 3)])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_three_and_two_bits_have_no_gaps_and_the_kernel_of_four(dtype, bits, least, scheme, batches, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 16)).eval()
    tuned = quantized(net, batches, {"dtype": dtype, "scheme": scheme})
    converted = torch_ext.convert(tuned)
    linears = [each for each in converted.modules() if isinstance(each, WeightOnlyLinear)]
    assert [each.integer_weight.nbytes for each in linears] == [128 * 64 * bits // 8, 64 * 16 * bits // 8]
    assert all(each._kernel_weight is not None for each in linears) is weight_only.has_kernel(4)
    y = outputs(converted, batches)
    assert signal_to_noise_db(outputs(net, batches), y) > least
    assert signal_to_noise_db(outputs(tuned, batches), y) > 40
    many = torch.cat(batches * 10)  # for which the weight is dequantized
    assert signal_to_noise_db(outputs(tuned, [many]), outputs(converted, [many])) > 40
    assert {each.form for each in tuned.tuning_result.operators} == {dtype}
    torch_ext.save(converted, tmp_path / "saved")
    assert torch.equal(outputs(torch_ext.load(tmp_path / "saved", net), batches), y)
    recipe = tuned.tuning_result.recipe
    assert torch.equal(outputs(torch_ext.convert(torch_ext.apply_recipe(net, recipe)), batches), y)
    traced = torch.jit.trace(converted, batches[0])
    assert signal_to_noise_db(y, outputs(traced, batches)) > 60


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_a_weight_on_a_grid_without_zero_keeps_its_values(net, batches):
    model = copy.deepcopy(net)
    with torch.no_grad():
        steps = torch.randint(0, 16, (48, 4, 32))
        steps[..., :2] = torch.tensor([0, 15])
        model.first.weight.copy_((steps * 0.01 - torch.rand(48, 4, 1) * 0.1 - 0.02).reshape(48, 128))
    tuned = quantized(
        *(model, batches, {"dtype": "int4", "scheme": "asym"}), smoothquant_args=None, recipes={"smooth_quant": False}
    )
    for each in (tuned.first.fake_weight(), torch_ext.convert(tuned).first.weight):
        assert signal_to_noise_db(model.first.weight.detach(), each.detach()) > 45


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_a_trace_chooses_the_kernel_by_its_rows(net, batches):
    converted = torch_ext.convert(quantized(net, batches, {"dtype": "int4"}))
    few, many = batches[0][:1], torch.cat(batches * (weight_only.most_rows(4) // 8))
    traced = torch.jit.freeze(torch.jit.trace(converted, few))
    with torch.no_grad():
        for x in (few, many, many[:3]):
            assert torch.equal(traced(x), converted(x))
        compiled = torch.compile(converted, backend="eager", fullgraph=True)
        assert signal_to_noise_db(converted(many), compiled(many)) > 40


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_rounding_by_second_moments_takes_error_away(net, batches):
    expected, errors = outputs(net, batches), {}
    for rounding in ("nearest", "second_moment"):
        tuned = quantized(net, batches, {"dtype": "int4"}, recipes={"weight_rounding": rounding})
        errors[rounding] = float((outputs(torch_ext.convert(tuned), batches) - expected).square().mean())
    assert errors["second_moment"] < 0.9 * errors["nearest"]


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_the_mean_output_of_groups_is_corrected(net, batches):
    expected, shifts = outputs(net, batches).mean(0), {}
    for corrected in (True, False):
        recipes = {"weight_rounding": "nearest", "fast_bias_correction": corrected, "weight_correction": False}
        found = outputs(torch_ext.convert(quantized(net, batches, {"dtype": "int4"}, recipes=recipes)), batches)
        shifts[corrected] = float((found.mean(0) - expected).norm())
    assert shifts[True] < 0.5 * shifts[False]


def test_groups_that_do_not_fit_are_refused(net, batches):
    rule = {"odd": {"weight": {"dtype": ["int4"], "granularity": ["per_group_64"]}}}
    with pytest.raises(CapabilityError, match="'per_group_64' is not in the capability"):
        torch_ext.autotune(net, batches, op_name_dict=rule, approach="weight_only", progress=False)


def test_groups_of_other_operators_are_refused(net, batches):
    conv = {
        "weight": {"dtype": ["int8"], "scheme": ["sym"], "granularity": ["per_group_32"], "algorithm": ["minmax"]},
        "activation": {"dtype": ["fp32"]},
    }
    with pytest.raises(CapabilityError, match="weight_only Conv2d: granularity 'per_group_32' has no form here"):
        torch_ext.autotune(net, batches, capability={"int8": {"weight_only": {"Conv2d": conv}}})


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(("objective", "forms"), [("modelsize", {"int4", "int8"}), ("performance", {"int8"})])
def test_for_size_four_bits_come_first_and_what_they_harm_gets_eight(objective, forms, net, batches):
    expected = outputs(net, batches)

    def minus_error(model):
        return -float((outputs(model, batches) - expected).norm() / expected.norm())

    tuned = torch_ext.autotune(
        net,
        batches,
        minus_error,
        approach="weight_only",
        op_type_dict={"Linear": {"weight": {"dtype": ["int8", "int4"]}}},
        accuracy_criterion={"absolute": 0.08},
        objective=objective,
        recipes={"smooth_quant": False, "weight_rounding": "nearest"},
        progress=False,
    )
    assert tuned.tuning_result.met
    assert {each.form for each in tuned.tuning_result.operators} == forms
