"""Weights rounded by the second moments of their inputs, from calibration to recipes and files."""

import numpy as np
import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.core.quantization import InputMoments, SecondMoment, unpack_steps
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.calibration.moments import update_moment
from inc_autotune.torch_ext.modules import QuantizedConvolution, QuantizedLinear, rounding_steps
from tests.torch.small_models import TiedWeights, vectors

SEED = torch.Generator().manual_seed(0)


class Net(nn.Module):
    """Convolutions of two kernels on one tensor, grouped ones, and two Linears on another, with few directions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(6, 24, 3, padding=1, stride=2)
        self.beside = nn.Conv2d(6, 24, 1, stride=2)
        self.grouped = nn.Conv2d(24, 24, 3, groups=2, dilation=2, padding=2)
        self.larger = nn.ConvTranspose2d(24, 24, 3, stride=2, groups=3)
        self.one = nn.Linear(24, 48)
        self.two = nn.Linear(24, 48)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        x = self.grouped(torch.relu(self.first(x) + self.beside(x)))
        x = self.larger(x).mean((2, 3))
        return self.last(torch.relu(self.one(x)) * torch.sigmoid(self.two(x)))


def images(count, generator=SEED):
    base = torch.randn(count, 2, 8, 8, generator=generator)
    mixing = torch.tensor([[1.0, 0.5, -1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, -0.5, 1.0, 0.3]])
    return torch.einsum("bihw,ic->bchw", base, mixing) + 0.1 * torch.randn(count, 6, 8, 8, generator=generator)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def data():
    return [images(8) for _ in range(8)]


def tuned_with(model, data, rounding, **arguments):
    # By name, so that what is not faster on this processor is quantized too.
    rules = {"op_name_dict": {".*": {"weight": {"dtype": "int8"}, "activation": {"dtype": "uint8"}}}}
    recipes = {"weight_rounding": rounding, "smooth_quant": False, "fast_bias_correction": False}
    return torch_ext.autotune(model, data, recipes=recipes, progress=False, **rules, **arguments)


@pytest.fixture(scope="module")
def rounded(model, data):
    return tuned_with(model, data, "second_moment")


def integers(tuned):
    modules = torch_ext.convert(tuned).named_modules()
    return {n: m.integer_weight for n, m in modules if isinstance(m, QuantizedLinear | QuantizedConvolution)}


@torch.no_grad()
def error(model, tuned):
    torch.manual_seed(1)
    x = images(256, None)
    return float((torch_ext.convert(tuned)(x) - model(x)).square().sum())


def test_the_output_comes_closer_and_the_result_tells(model, data, rounded):
    nearest = tuned_with(model, data, "nearest")
    assert error(model, rounded) < error(model, nearest)
    result = rounded.tuning_result
    assert result.smoothing[0][1] < result.smoothing[-1][1]
    why = [(each["plan"], each["output_error"]) for each in result.recipe.metadata["smoothing"]]
    assert tuple(why) == result.smoothing
    assert {each.rounding for each in result.operators if each.dtype == "int8"} == {"second_moment"}
    assert "rounded by second moments" in str(result)
    assert all(each.rounding == "nearest" for each in nearest.tuning_result.operators)
    differing = [name for name, weight in integers(rounded).items() if not weight.equal(integers(nearest)[name])]
    assert {"first", "beside", "grouped", "larger", "one", "two"} <= set(differing)


def test_data_and_seed_decide_all_of_it(model, data, rounded):
    again = integers(tuned_with(model, data, "second_moment"))
    assert all(weight.equal(again[name]) for name, weight in integers(rounded).items())


def test_the_recipe_gives_the_same_integers_without_data(model, rounded, tmp_path):
    path = tmp_path / "recipe.yaml"
    rounded.tuning_result.recipe.save(path)
    applied = torch_ext.apply_recipe(model, path)
    expected = integers(rounded)
    assert all(weight.equal(expected[name]) for name, weight in integers(applied).items())
    x = images(4)
    assert torch_ext.convert(applied)(x).equal(torch_ext.convert(rounded)(x))


@pytest.mark.parametrize("converted", [False, True])
def test_a_saved_model_is_the_same_when_loaded(rounded, tmp_path, converted):
    model = torch_ext.convert(rounded) if converted else rounded
    torch_ext.save(model, tmp_path)
    x = images(4)
    assert torch_ext.load(tmp_path, Net().eval())(x).equal(model(x))


@pytest.mark.parametrize("granularity", ["per_channel", "per_group_32"])
def test_operators_that_read_one_input_are_rounded_as_each_alone(granularity):
    torch.manual_seed(0)
    layers = [nn.Linear(64, outputs) for outputs in (5, 16, 3)]
    moment = SecondMoment(64)
    moment.update(torch.randn(200, 4) @ torch.randn(4, 64) + 0.1 * torch.randn(200, 64))
    calibration = OperatorCalibration(smoothing=torch.rand(64) + 0.5, moments={"weight": moment})
    weight = TensorConfig("int4", "sym", granularity)
    config = OpConfig(weight, FP32_TENSOR, "weight_only", rounding="second_moment")

    def steps(modules):
        count = len(modules)
        packed = rounding_steps(modules, [config] * count, [calibration] * count, reduce_range=False)
        return np.concatenate([unpack_steps(p, layer.weight.shape) for p, layer in zip(packed, modules, strict=True)])

    together, alone = steps(layers), np.concatenate([steps([layer]) for layer in layers])
    # Sums of other shapes round otherwise, which a weight in the middle of two integers may show.
    assert np.mean(together != alone) < 0.02
    assert np.any(together)


def test_a_shared_weight_stays_shared():
    recipes = {"weight_rounding": "second_moment", "fast_bias_correction": False, "weight_correction": False}
    tuned = torch_ext.autotune(TiedWeights().eval(), vectors(), recipes=recipes, progress=False)
    assert tuned.first.weight is tuned.second.weight
    assert all(each.rounding == "nearest" for each in tuned.tuning_result.operators)
    assert any("weight_rounding has no effect" in note for note in tuned.tuning_result.notes)


def test_a_recipe_with_the_steps_of_another_weight_is_refused(model, rounded):
    recipe = rounded.tuning_result.recipe
    arrays = dict(recipe.arrays)
    arrays["one.rounding_steps"] = arrays["first.rounding_steps"]
    with pytest.raises(RecipeError, match="rounding"):
        torch_ext.apply_recipe(model, type(recipe)(recipe.framework, recipe.operators, arrays))


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), padding="same", groups=2, padding_mode="reflect"),
        nn.Conv3d(2, 3, 2, padding=1),
        nn.ConvTranspose1d(4, 6, 3, stride=2, padding=2, output_padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1)),
        nn.ConvTranspose3d(2, 3, 2, stride=2),
    ],
)
def test_patches_give_the_output_of_a_convolution(convolution):
    channels, dimensions = convolution.in_channels, len(convolution.kernel_size)
    x = torch.randn(2, channels, *[3 if dimensions == 3 else 5] * dimensions, generator=SEED)
    moments = InputMoments(0)
    update_moment(moments, "x", convolution, x, None)
    with torch.no_grad():
        bias = convolution.bias.reshape(-1, *[1] * dimensions)
        outputs = (convolution(x) - bias).movedim(1, -1).flatten(0, -2)
        weight = convolution.weight
        if convolution.transposed:
            weight = weight.reshape(convolution.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        weight = weight.flatten(1)
        moment = moments.found["x"]
        rows = weight.shape[0] // moment.groups
        for group, _, _, block in moment.blocks():
            of_group = slice(group * rows, group * rows + rows)
            energy = (weight[of_group] @ block * weight[of_group]).sum(1)
            torch.testing.assert_close(energy, outputs[:, of_group].square().mean(0), rtol=1e-4, atol=1e-5)


def test_padding_does_not_count():
    moments = InputMoments(0)
    x = torch.randn(2, 5, 3, generator=SEED)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    update_moment(moments, "x", nn.Linear(3, 2), x, real)
    expected = x[real].T @ x[real] / 7
    torch.testing.assert_close(next(moments.found["x"].blocks())[3], expected)


def test_moments_beyond_the_memory_limit_are_told(model, data, monkeypatch):
    monkeypatch.setattr("inc_autotune.core.quantization.input_moments.MOMENT_BYTES", 12_000)
    tuned = tuned_with(model, data, "second_moment")
    assert any("inputs are rounded to nearest" in note for note in tuned.tuning_result.notes)
    rounded = {each.name for each in tuned.tuning_result.operators if each.rounding == "second_moment"}
    assert 0 < len(rounded) < 7


class Recurrent(nn.Module):
    def __init__(self, kind, **arguments):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(nn, kind)(12, 16, bidirectional=True, **arguments)
        self.head = nn.Linear(2 * (self.rnn.proj_size or 16), 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize(("kind", "arguments"), [("GRU", {"num_layers": 2}), ("LSTM", {"proj_size": 8})])
def test_a_recurrent_layer_rounds_by_its_inputs_and_hidden_states(kind, arguments, tmp_path):
    model = Recurrent(kind, **arguments).eval()
    mixing = torch.randn(2, 12, generator=SEED)
    data = [torch.randn(6, 4, 2, generator=SEED) @ mixing for _ in range(8)]
    # Rounding of activations, the same in both, would hide it.
    rules = {
        "op_name_dict": {"rnn": {"activation": {"quant_mode": ["weight_only"]}}, "head": {"weight": {"dtype": "fp32"}}}
    }
    found = {}
    for rounding in ("nearest", "second_moment"):
        recipes = {"weight_rounding": rounding}
        found[rounding] = torch_ext.autotune(model, data, recipes=recipes, progress=False, **rules)
    x = torch.randn(6, 64, 2, generator=SEED) @ mixing
    tuned = found["second_moment"]
    with torch.no_grad():
        errors = {name: (torch_ext.convert(each)(x) - model(x)).square().sum() for name, each in found.items()}
        assert errors["second_moment"] < 0.8 * errors["nearest"]
        applied = torch_ext.apply_recipe(model, tuned.tuning_result.recipe)
        torch_ext.save(tuned, tmp_path)
        for other in (applied, torch_ext.load(tmp_path, Recurrent(kind, **arguments).eval())):
            assert torch_ext.convert(other)(x).equal(torch_ext.convert(tuned)(x))


def test_the_result_says_why_a_weight_is_rounded_to_nearest():
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table, self.one, self.two = nn.Embedding(8, 12), nn.Linear(12, 12), nn.Linear(12, 12)
            self.two.weight, self.last = self.one.weight, nn.Linear(12, 3)

        def forward(self, ids):
            return self.last(self.two(torch.relu(self.one(self.table(ids)))))

    rules = {"op_name_dict": {".*": {"weight": {"dtype": ["int8", "uint8"]}}}}
    recipes = {"weight_rounding": "second_moment"}
    data = [torch.randint(0, 8, (16,), generator=SEED) for _ in range(4)]
    result = torch_ext.autotune(Tables().eval(), data, recipes=recipes, progress=False, **rules).tuning_result
    reasons = {each.name: each.rounding_reason for each in result.operators}
    assert reasons == {
        "table": "rows of a table are never summed",
        "one": "others read the weight too",
        "two": "others read the weight too",
        "last": None,
    }
    assert "table (Embedding: rows of a table are never summed)" in result.describe_rounding()
