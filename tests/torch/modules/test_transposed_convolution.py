"""Transposed convolutions in integers: every geometry, form and layout that torch has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.target import saturation
from tests.torch.module_examples import Example, calibrated, integer_config

GEOMETRIES = {
    "upsampling": {"kernel_size": 2, "stride": 2},
    "overlapping": {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    "odd kernel": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "odd output": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 1": {"kernel_size": 3, "padding": 1},
    "gaps": {"kernel_size": 2, "stride": 3, "output_padding": 2},
    "dilated": {"kernel_size": 3, "stride": 2, "dilation": 2, "output_padding": 1},
    "phases out of order": {"kernel_size": 2, "stride": 2, "dilation": 3},
    "much padding": {"kernel_size": 3, "stride": 3, "padding": 4, "dilation": 3},
    "grouped": {"kernel_size": 3, "stride": 2, "groups": 4},
    "depthwise": {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8},
    "depthwise of stride 1": {"kernel_size": 3, "groups": 8},
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def example(dimensions: int, geometry: str) -> Example:
    torch.manual_seed(0)
    module = getattr(nn, f"ConvTranspose{dimensions}d")(8, 16, **GEOMETRIES[geometry])
    return calibrated(module, integer_config(), torch.randn(2, 8, *(5, 6, 7)[:dimensions]))


def in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "is_too_wide", lambda *_: True)
    monkeypatch.setattr(saturation, "warn_of_wide_weights", lambda: None)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "float"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_every_geometry(dimensions, geometry, kernel, monkeypatch):
    if not kernel:
        in_float(monkeypatch)
    case = example(dimensions, geometry)
    prepared, quantized, x = case.prepared(), case.quantized(), case.x
    expected, actual = prepared(x), quantized(x)
    assert not quantized.simulated
    assert (actual.shape, actual.stride()) == (expected.shape, expected.stride())
    assert signal_to_noise_db(expected, actual) >= 60
    assert signal_to_noise_db(case.module(x), actual) >= 25
    assert torch.equal(quantized(x[0]), actual[0])
    assert quantized(x[:0]).shape == (0, *actual.shape[1:])
    assert quantized(x.double()).dtype == torch.float64
    assert quantized.weight.shape == case.module.weight.shape
    assert signal_to_noise_db(case.module.weight, quantized.weight) >= 33


@pytest.mark.parametrize("geometry", ["upsampling", "odd kernel", "odd output", "gaps", "dilated", "grouped"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_an_output_size_may_be_chosen(dimensions, geometry):
    case = example(dimensions, geometry)
    module, forms = case.module, (case.prepared(), case.quantized())
    shortest = [
        (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
        for length, stride, padding, dilation, kernel in zip(
            case.x.shape[2:], module.stride, module.padding, module.dilation, module.kernel_size, strict=True
        )
    ]
    for more in range(max(module.stride[0], module.dilation[0])):
        size = [length + more for length in shortest]
        expected, actual = forms[0](case.x, output_size=size), forms[1](case.x, size)
        assert [*actual.shape[2:]] == size
        assert signal_to_noise_db(expected, actual) >= 60
        assert signal_to_noise_db(module(case.x, size), actual) >= 25
        assert torch.equal(forms[1](case.x[0], output_size=size), actual[0])
    with pytest.raises(ValueError, match="output size"):
        forms[1](case.x, [length + 9 for length in shortest])


def test_an_output_size_may_be_chosen_of_simulated_ones():
    case = example(2, "grouped")
    simulated = calibrated(case.module, integer_config("int4", "uint4"), case.x).quantized()
    assert simulated.simulated
    assert simulated(case.x, output_size=[12, 14]).shape == (2, 16, 12, 14)


def test_output_channels_of_all_groups_have_scales_of_their_own():
    module = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
    for channel in range(6):
        nn.init.constant_(module.weight[2 * (channel // 3) : 2 * (channel // 3) + 2, channel % 3], 10.0**channel)
    case = calibrated(module, integer_config(), torch.rand(1, 4, 3, 3))
    assert case.prepared().weight_scale.shape == (6,)
    assert torch.allclose(case.quantized().weight, module.weight, rtol=0.01)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x])[::2],
    "swapped": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("weight_last", [False, True], ids=["plain weight", "weight in channels last"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_those_of_the_fp32_module(layout, weight_last, groups):
    torch.manual_seed(0)
    module = nn.ConvTranspose2d(8, 16, 3, stride=2, groups=groups)
    if weight_last:
        module = module.to(memory_format=torch.channels_last)
    x = LAYOUTS[layout](torch.randn(2, 8, 5, 6))
    case = calibrated(module, integer_config(), x)
    prepared, quantized, expected = case.prepared(), case.quantized(), module(x).stride()
    forms = {
        "prepared": prepared,
        "quantized": quantized,
        "frozen": torch.jit.freeze(torch.jit.trace(quantized, x)),
        "exported": torch.export.export(quantized, (x,)).module(),
    }
    for name, form in forms.items():
        assert form(x).stride() == expected, name


@pytest.mark.parametrize("geometry", ["upsampling", "odd output", "gaps", "grouped"])
def test_a_trace_takes_other_sizes(geometry):
    case = example(2, geometry)
    quantized = case.quantized()
    traced = torch.jit.freeze(torch.jit.trace(quantized, case.x))
    for x in (case.x, torch.randn(3, 8, 9, 4), torch.randn(1, 8, 2, 2)):
        assert torch.equal(traced(x), quantized(x))


def test_compiled_it_becomes_one_integer_convolution():
    counters = torch._dynamo.utils.counters
    torch.manual_seed(0)
    module = nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1, groups=2)
    case = calibrated(module, integer_config(), torch.randn(2, 16, 6, 6))
    reduced = saturation.convolution_saturates(2, depthwise=False)
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(freezing=True):
        actual = torch.compile(case.quantized(reduced), fullgraph=True)(case.x)
    assert signal_to_noise_db(module(case.x), actual) >= 35
    assert counters["inductor"]["qconv_weight_prepack_matcher_count"] == 1


def test_no_copy_of_the_weight_is_saved():
    case = example(2, "odd kernel")
    state = case.quantized().state_dict()
    assert {name: value.numel() for name, value in state.items() if value.dim() > 1} == {
        "integer_weight": case.module.weight.numel()
    }


def test_saturating_kernels_get_7_bits(monkeypatch):
    monkeypatch.setattr(saturation, "convolution_saturates", lambda dimensions, depthwise: not depthwise)
    for name, module in {
        "ConvTranspose1d": nn.ConvTranspose1d(8, 8, 3),
        "ConvTranspose3d": nn.ConvTranspose3d(8, 8, 3),
    }.items():
        assert saturation.needs_reduced_range(name, module)
    assert not saturation.needs_reduced_range("ConvTranspose2d", nn.ConvTranspose2d(8, 8, 3, groups=8))
    reduced = example(2, "overlapping").quantized(reduce_range=True)
    assert int(reduced.integer_weight.abs().max()) <= 64
    assert reduced.packed is not None
