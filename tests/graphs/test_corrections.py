"""The corrected bias, by layouts and groups."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import InputMeans
from inc_autotune.graphs import corrected_bias, quantize_weight

FOUR_BITS = TensorConfig("int4", "sym", "per_channel", "minmax")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize(("shape", "channels"), [((5, 12), 12), ((4, 6, 3, 3), 6), ((6, 1, 3, 3), 6), ((4, 3, 2), 6)])
def test_it_adds_what_rounding_takes(shape, channels, granularity):
    config = TensorConfig("int4", "sym", granularity, "minmax")
    weight, mean, bias = random(*shape), random(channels), random(shape[0])
    quantized = quantize_weight(weight, config, axis=0, framework="onnxruntime")
    lost = (weight - quantized.floats(0)).reshape(*shape[:2], -1).sum(-1)
    groups, features = channels // shape[1], shape[0] * shape[1] // channels
    per_output = mean.reshape(groups, shape[1]).repeat(features, axis=0)
    expected = (lost * per_output).sum(1)
    means = InputMeans(mean, mean)
    np.testing.assert_allclose(corrected_bias(None, weight, quantized, means), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(corrected_bias(bias, weight, quantized, means), bias + expected, rtol=1e-3, atol=1e-5)
    assert corrected_bias(bias, weight, quantized, None) is bias


def test_means_of_another_operator():
    weight = random(4, 6)
    quantized = quantize_weight(weight, FOUR_BITS, axis=0, framework="onnxruntime")
    with pytest.raises(ValueError, match="7 means of inputs for a weight of shape"):
        corrected_bias(None, weight, quantized, InputMeans(random(7), random(7)))


def test_a_corrected_weight_has_the_mean_of_the_float_one():
    weight = random(8, 5, 3, 3)
    plain, corrected = (
        quantize_weight(weight, FOUR_BITS, axis=0, framework="onnxruntime", corrected=each) for each in (False, True)
    )
    off, near = (np.abs(each.floats(0).mean((1, 2, 3)) - weight.mean((1, 2, 3))) for each in (plain, corrected))
    assert near.max() < 0.51 * corrected.scale.max() / 45
    assert near.sum() < 0.5 * off.sum()
    np.testing.assert_allclose(corrected.floats(0).std((1, 2, 3)), weight.std((1, 2, 3)), rtol=0.02)
