"""Dynamic Linears with a range for each token."""

import copy

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module

WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")


def config(scheme="asym", granularity="per_token", approach="dynamic"):
    return OpConfig(WEIGHT, TensorConfig("uint8", scheme, granularity, "minmax"), approach)


def layer(bias=True):
    torch.manual_seed(0)
    return nn.Linear(48, 32, bias=bias).eval()


def tokens(*shape):
    """Tokens of very different sizes."""
    torch.manual_seed(1)
    return torch.randn(*shape, 48) * torch.exp(3 * torch.randn(*shape, 1))


def forms(module, scheme="asym", smoothing=None):
    prepared = prepare_module(module, config(scheme), OperatorCalibration(smoothing=smoothing), reduce_range=True)
    return prepared, convert_module(prepared)


def error(expected, actual):
    return float((expected - actual).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["asym", "sym"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothed", [True, False])
def test_every_form_computes_the_same(scheme, bias, smoothed):
    x = tokens(3, 5)
    smoothing = torch.rand(48) + 0.5 if smoothed else None
    prepared, converted = forms(layer(bias), scheme, smoothing)
    traced = torch.jit.trace(converted, x[:1, :1])
    expected = prepared(x)

    # Steps of the integers may differ where a value lies between two: in symmetric ranges the largest does.
    largest = 1e-5 if scheme == "asym" else 5e-3
    for form in (converted, traced, torch.compile(copy.deepcopy(converted))):
        for each in (x, x[:, :1], *(() if form is traced else (x[0, 0],))):
            assert error(prepared(each), form(each)) < largest
    assert error(layer(bias)(x), expected) < 0.03


@torch.no_grad()
def test_small_tokens_keep_their_digits_beside_large_ones():
    x = tokens(64)
    exact = layer()(x)
    small = exact.norm(dim=1) < exact.norm(dim=1).median()
    by_token, by_tensor = (
        convert_module(prepare_module(layer(), config(granularity=each), OperatorCalibration(), reduce_range=True))(x)
        for each in ("per_token", "per_tensor")
    )
    assert error(exact[small], by_token[small]) < 0.03 < error(exact[small], by_tensor[small])


@torch.no_grad()
def test_a_token_does_not_depend_on_those_beside_it():
    x = tokens(6)
    _, converted = forms(layer())
    assert torch.allclose(converted(x)[2:3], converted(x[2:3]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_no_tokens(dtype):
    prepared, converted = forms(layer())
    assert converted(tokens(4).clamp(-9, 9).to(dtype)).dtype == dtype
    assert converted(torch.zeros(0, 48)).shape == prepared(torch.zeros(0, 48)).shape == (0, 32)
    assert torch.equal(converted(torch.zeros(2, 48)), converted(torch.zeros(1, 48)).expand(2, -1))


def test_it_is_the_default_of_dynamic_linears(tmp_path):
    model = nn.Sequential(layer(), nn.GELU(), nn.LSTM(32, 16, batch_first=True)).eval()
    tuned = torch_ext.autotune(model, [tokens(2, 4)], approach="dynamic", progress=False)
    assert [tuned[index].config.activation.granularity for index in (0, 2)] == ["per_token", "per_tensor"]

    quantized = torch_ext.convert(tuned)
    torch_ext.save(quantized, tmp_path / "saved")
    loaded = torch_ext.load(tmp_path / "saved", model)
    x = tokens(2, 4)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], quantized(x)[0])


@pytest.mark.parametrize("approach", ["static", "weight_only"])
def test_ranges_of_tokens_are_found_at_run_time(approach):
    with pytest.raises(ArgumentError, match="per_token"):
        prepare_module(layer(), config(approach=approach), OperatorCalibration(0.0, 1.0))


def test_other_layers_have_none():
    with pytest.raises(ArgumentError, match="'per_token' for dynamic linear operators"):
        prepare_module(nn.LSTM(4, 4), config(), OperatorCalibration())
