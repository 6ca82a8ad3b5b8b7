"""The ONNX Runtime scheme table against onnxruntime's own quantizer."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
quant_utils = pytest.importorskip("onnxruntime.quantization.quant_utils")

from onnx import TensorProto  # noqa: E402

from inc_autotune.core.quantization.affine import quantization_parameters, quantize  # noqa: E402


def samples() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = [
        (generator.standard_normal(512) * scale + shift).astype(np.float32)
        for scale in (1e-3, 1, 50)
        for shift in (-2, 0, 3)
    ]
    return [*noise, np.maximum(noise[4], 0), np.minimum(noise[4], 0)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_scale_and_zero_point(dtype: str, scheme: str, reduce_range: bool) -> None:
    kind = getattr(TensorProto, dtype.upper())
    quant_min, quant_max = quant_utils.get_qmin_qmax_for_qType(kind, reduce_range, scheme == "sym")
    for x in samples():
        zero_point, scale = quant_utils.compute_data_quant_params(x, kind, scheme == "sym", reduce_range)
        ours = quantization_parameters(
            x.min(), x.max(), dtype=dtype, scheme=scheme, framework="onnxruntime", reduce_range=reduce_range
        )
        assert (ours.quant_min, ours.quant_max) == (int(quant_min), int(quant_max))
        assert float(ours.scale) == pytest.approx(float(scale), rel=1e-6)
        assert int(ours.zero_point) == int(zero_point)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_integers(dtype: str, scheme: str) -> None:
    kind = getattr(TensorProto, dtype.upper())
    for x in samples():
        _, _, theirs = quant_utils.quantize_data(x, kind, scheme == "sym")
        ours = quantize(
            x, quantization_parameters(x.min(), x.max(), dtype=dtype, scheme=scheme, framework="onnxruntime")
        )
        # A last-bit difference of the scale may move a value that lies half-way between two integers.
        assert np.abs(ours - theirs).max() <= 1
        assert np.mean(ours != theirs) < 0.01


def test_all_zero_tensor() -> None:
    zero_point, scale = quant_utils.compute_data_quant_params(np.zeros(4, np.float32), TensorProto.INT8, True)
    ours = quantization_parameters(0.0, 0.0, dtype="int8", scheme="sym", framework="onnxruntime")
    assert (float(ours.scale), int(ours.zero_point)) == (float(scale), int(zero_point)) == (1.0, 0)
