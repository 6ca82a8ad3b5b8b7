"""Detection of kernels, and what happens without them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.target import kernels, saturation
from tests.torch.module_examples import convolution, integer_config, linear


@pytest.fixture
def fresh_detection():
    caches = (
        kernels.has_engine,
        kernels.has_fused_linear,
        saturation.fused_linear_saturates,
        saturation.integer_product_saturates,
        saturation.compiled_linear_saturates,
        saturation.convolution_saturates,
    )
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("fresh_detection")
def test_engine_is_left_as_it_was():
    before = torch.backends.quantized.engine
    kernels.has_fused_linear()
    linear(integer_config()).quantized()
    example = convolution(2)
    example.quantized()(example.x)
    assert torch.backends.quantized.engine == before
    with pytest.raises(ZeroDivisionError), kernels.quantized_engine("onednn"):
        raise ZeroDivisionError
    assert torch.backends.quantized.engine == before


def test_nothing_is_detected_at_import():
    code = (
        "from inc_autotune.torch_ext.target import kernels, saturation\n"
        "import inc_autotune.torch_ext.modules\n"
        "assert saturation.fused_linear_saturates.cache_info().currsize == 0\n"
        "assert saturation.convolution_saturates.cache_info().currsize == 0\n"
        "assert kernels.has_fused_linear.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("fresh_detection")
def test_a_broken_fused_kernel_is_not_used(monkeypatch):
    monkeypatch.setattr(kernels, "fused_linear", lambda x, *_: torch.full((1, 2), 7.0))
    assert not kernels.has_fused_linear()


@pytest.mark.usefixtures("fresh_detection")
def test_a_missing_fused_kernel_is_not_used(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(kernels, "fused_linear", missing)
    assert not kernels.has_fused_linear()


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_without_fbgemm_the_numbers_are_the_same(monkeypatch, approach):
    example = linear(integer_config(approach=approach), smoothed=True)
    expected = example.quantized()(example.x)
    monkeypatch.setattr(kernels, "has_fused_linear", lambda: False)
    quantized = example.quantized()
    assert quantized.packed is None
    assert signal_to_noise_db(expected, quantized(example.x)) >= 90


def test_without_onednn_convolutions_are_simulated(monkeypatch):
    from inc_autotune.torch_ext.modules import availability

    monkeypatch.setattr(availability, "has_engine", lambda name: False)
    example = convolution(2)
    quantized = example.quantized()
    assert quantized.simulated
    assert torch.equal(quantized(example.x), example.prepared()(example.x))
    monkeypatch.setattr(kernels, "has_engine", lambda name: False)
    assert "oneDNN" in str(kernels.fp32_reason(example.module))


def test_reasons_to_stay_in_fp32():
    assert "depthwise" in str(kernels.fp32_reason(nn.Conv2d(8, 8, 3, groups=8)))
    assert kernels.fp32_reason(nn.Conv2d(8, 8, 3, groups=8), between_integers=True) is None
    assert kernels.fp32_reason(nn.ConvTranspose2d(8, 8, 3)) is None
    assert kernels.fp32_reason(nn.Conv2d(8, 8, 3, groups=2)) is None
    assert kernels.fp32_reason(nn.Linear(8, 8)) is None


@pytest.mark.parametrize("shape", [(5, 3), (1, 4096), (0, 4), (64, 1)])
def test_row_sums_are_exact(shape):
    weight = torch.full(shape, -128, dtype=torch.int8)
    assert kernels.row_sums(weight).tolist() == [-128 * shape[1]] * shape[0]
