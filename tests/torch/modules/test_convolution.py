"""A quantized convolution leaves its output in memory as the fp32 one does: programs see strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.target import saturation
from tests.torch.module_examples import calibrated, integer_config

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SIDE = 9


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def inputs(channels: int, dimensions: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, channels, *[SIDE] * dimensions)
    found = {
        "contiguous": x,
        "sliced": torch.randn(4, channels, *[SIDE] * dimensions)[::2],
        "expanded": x[:1].expand_as(x),
        "single": x[0],
        "channels behind": x.transpose(1, -1).contiguous().transpose(1, -1),
    }
    if dimensions > 1:
        found["channels last"] = x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
        found["swapped"] = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return found


ARGUMENTS = {
    "plain": {},
    "same": {"padding": "same"},
    "same of even size": {"padding": "same", "kernel_size": 2},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "strided": {"stride": 2, "padding": 1},
    "grouped": {"groups": 2},
    "whole input": {"kernel_size": SIDE},
    "one channel in": {"in_channels": 1},
    "one channel out": {"out_channels": 1},
}


def convolution(dimensions: int, **arguments) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"in_channels": 8, "out_channels": 12, "kernel_size": 3, **arguments}
    return getattr(nn, f"Conv{dimensions}d")(**arguments)


@pytest.mark.parametrize("in_float", [False, True], ids=["kernel", "float"])
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_strides_are_those_of_the_fp32_convolution(monkeypatch, dimensions, arguments, in_float):
    if in_float:
        monkeypatch.setattr(saturation, "is_too_wide", lambda *_: True)
        monkeypatch.setattr(saturation, "warn_of_wide_weights", lambda: None)
    module = convolution(dimensions, **ARGUMENTS[arguments])
    example = calibrated(module, integer_config(), torch.randn(2, module.in_channels, *[SIDE] * dimensions))
    prepared, quantized = example.prepared(), example.quantized()
    for name, x in inputs(module.in_channels, dimensions).items():
        expected = module(x)
        for form in (prepared, quantized):
            y = form(x)
            assert (y.shape, y.stride()) == (expected.shape, expected.stride()), name


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weight_in_channels_last_decides_as_in_fp32(dimensions):
    module = convolution(dimensions).to(memory_format=CHANNELS_LAST[dimensions + 2])
    x = torch.randn(2, 8, *[SIDE] * dimensions)
    quantized = calibrated(module, integer_config(), x).quantized()
    expected = module(x)
    assert quantized(x).stride() == expected.stride() != expected.contiguous().stride()
    assert torch.export.export(quantized, (x,)).module()(x).stride() == expected.stride()


@pytest.mark.parametrize("x", ["contiguous", "channels last"])
def test_traced_exported_and_compiled_forms_keep_strides(x):
    module, given = convolution(2), inputs(8, 2)[x]
    quantized = calibrated(module, integer_config(), given).quantized()
    expected = module(given).stride()
    forms = {
        "traced": torch.jit.trace(quantized, given),
        "frozen": torch.jit.freeze(torch.jit.trace(quantized, given)),
        "exported": torch.export.export(quantized, (given,)).module(),
        "compiled": torch.compile(quantized, backend="eager"),
    }
    for name, form in forms.items():
        assert form(given).stride() == expected, name


class Viewed(nn.Module):
    """Its `view` refuses what is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.last = nn.Linear(24 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.last(x.view(x.size(0), -1))


def test_model_that_views_the_output_of_a_convolution_is_all_int8():
    data = [torch.randn(8, 3, 16, 16) for _ in range(6)]
    model = Viewed().eval()
    tuned = torch_ext.autotune(model, data, lambda m: float(m(data[0]).shape[0]), progress=False)
    assert not tuned.tuning_result.fallbacks
    quantized = torch_ext.convert(tuned)
    assert torch.equal(torch.jit.trace(quantized, data[1])(data[1]), quantized(data[1]))
