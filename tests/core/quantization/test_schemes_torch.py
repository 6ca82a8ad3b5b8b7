"""The PyTorch scheme table against torch's own observers and kernels."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")

from inc_autotune.core.op_config import TensorConfig  # noqa: E402
from inc_autotune.core.quantization.affine import (  # noqa: E402
    fake_quantize,
    integer_type,
    quantization_parameters,
    quantize,
)
from inc_autotune.core.quantization.weight_grid import weight_parameters  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

QDTYPES = {"int8": torch.qint8, "uint8": torch.quint8}


def observed(observer: object, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    observer(x)  # type: ignore[operator]
    return observer.calculate_qparams()  # type: ignore[attr-defined, no-any-return]


def observer(cls: type, dtype: str, scheme: str, **arguments: object) -> object:
    level = "per_channel" if cls is PerChannelMinMaxObserver else "per_tensor"
    qscheme = getattr(torch, f"{level}_{'symmetric' if scheme == 'sym' else 'affine'}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(dtype=QDTYPES[dtype], qscheme=qscheme, **arguments)


def samples() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(8, 64, generator=generator) * scale + shift for scale in (1e-3, 1, 50) for shift in (-2, 0, 3)]
    return [*noise, torch.relu(noise[4]), -torch.relu(noise[4]), torch.zeros(8, 64), torch.full((8, 64), 1e-9)]


@pytest.mark.parametrize(
    ("dtype", "scheme", "reduce_range"),
    [
        (dtype, scheme, reduce_range)
        for dtype in ("int8", "uint8")
        for scheme in ("sym", "asym")
        for reduce_range in (False, True)
        if (dtype, scheme, reduce_range) != ("uint8", "sym", True)  # torch has no such observer
    ],
)
def test_per_tensor_observer(dtype: str, scheme: str, reduce_range: bool) -> None:
    for x in samples():
        theirs = observer(MinMaxObserver, dtype, scheme, reduce_range=reduce_range)
        scale, zero_point = observed(theirs, x)
        ours = quantization_parameters(x.min(), x.max(), dtype=dtype, scheme=scheme, reduce_range=reduce_range)
        assert float(ours.scale) == float(scale)
        assert int(ours.zero_point) == int(zero_point)
        assert (ours.quant_min, ours.quant_max) == (theirs.quant_min, theirs.quant_max)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_observer(dtype: str, scheme: str, axis: int) -> None:
    for x in samples():
        scale, zero_point = observed(observer(PerChannelMinMaxObserver, dtype, scheme, ch_axis=axis), x)
        ours = weight_parameters(x, TensorConfig(dtype, scheme, "per_channel", "minmax"), axis=axis)
        assert torch.equal(ours.scale, scale)
        assert torch.equal(ours.zero_point, zero_point.to(torch.int32))


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_observer_with_a_custom_range(bits: int, signed: bool, scheme: str) -> None:
    dtype = f"{'' if signed else 'u'}int{bits}"
    kind = integer_type(dtype)
    for x in samples():
        theirs = observer(
            MinMaxObserver, "int8" if signed else "uint8", scheme, quant_min=kind.minimum, quant_max=kind.maximum
        )
        scale, zero_point = observed(theirs, x)
        ours = quantization_parameters(x.min(), x.max(), dtype=dtype, scheme=scheme)
        assert float(ours.scale) == float(scale)
        # Between two middle integers torch takes 128 for uint8, yet the lower one for a custom range; we take the
        # upper one at every width.
        middle = 1 if scheme == "sym" and not signed else 0
        assert int(ours.zero_point) == int(zero_point) + middle


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint4"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_fake_quantize_kernels(dtype: str, scheme: str) -> None:
    for x in samples():
        ours = quantization_parameters(x.min(), x.max(), dtype=dtype, scheme=scheme)
        theirs = torch.fake_quantize_per_tensor_affine(
            x, float(ours.scale), int(ours.zero_point), ours.quant_min, ours.quant_max
        )
        # torch multiplies by 1 / scale, we divide: values half-way between integers may go either way.
        difference = (fake_quantize(x, ours) - theirs).abs()
        assert float(difference.max()) <= float(ours.scale) * 1.001
        assert float((difference > float(ours.scale) / 2).float().mean()) < 0.01

        channel = weight_parameters(x, TensorConfig(dtype, scheme, "per_channel", "minmax"))
        theirs = torch.fake_quantize_per_channel_affine(
            x, channel.scale, channel.zero_point, 0, channel.quant_min, channel.quant_max
        )
        difference = (fake_quantize(x, channel, 0) - theirs).abs() / channel.scale[:, None]
        assert float((difference > 0.5).float().mean()) < 0.01


def test_integers_of_a_quantized_tensor() -> None:
    x = samples()[4]
    ours = weight_parameters(x, TensorConfig("int8", "sym", "per_channel", "minmax"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.quantize_per_channel(x, ours.scale, ours.zero_point, 0, torch.qint8).int_repr()
    assert float((quantize(x, ours, 0) != theirs.float()).float().mean()) < 0.01
