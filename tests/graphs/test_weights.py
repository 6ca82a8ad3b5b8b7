"""Quantized weights, kept over trials and shared by content."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.graphs import weights as module
from inc_autotune.graphs.digest import content
from inc_autotune.graphs.weights import QuantizedWeight, WeightCache, quantize_weight


def made(cache: WeightCache, version: int, operator: str = "fc") -> bool:
    """Whether asking for a version makes it."""
    calls: list[int] = []

    def make() -> QuantizedWeight:
        calls.append(version)
        return QuantizedWeight(np.zeros(100, np.int8), np.ones((), np.float32), np.zeros((), np.int8))

    cache.get(operator, version, make)
    return bool(calls)


def test_large_quantized_weights_are_kept_in_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    small = WeightCache()
    assert [made(small, version) for version in (1, 2, 1, 2, 3, 1)] == [True, True, False, False, True, True]
    monkeypatch.setattr(module, "LARGE_BYTES", 99)
    large = WeightCache()
    assert [made(large, version) for version in (1, 1, 2, 1)] == [True, False, True, True]


def test_operators_with_the_same_version_share_it() -> None:
    cache = WeightCache()
    assert made(cache, 1, "one")
    assert not made(cache, 1, "other")
    for version in (2, 3):
        made(cache, version, "one")
    assert not made(cache, 1, "third"), "one dropped it, but the other still has it"
    for operator in ("other", "third"):
        for version in (2, 3):
            made(cache, version, operator)
    gc.collect()
    assert made(cache, 1, "one"), "nobody has it any more"


def test_arrays_can_be_kept_too() -> None:
    cache, array = WeightCache(), np.ones(3, np.float32)
    assert cache.get("fc", "float", lambda: array) is cache.get("other", "float", lambda: np.zeros(3, np.float32))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_a_channel_of_zeros_gets_the_smallest_scale_of_the_others(granularity: Any, scheme: Any) -> None:
    weight = np.array([[0.5, 0, -2], [0.25, 0, 1]], np.float32)
    config = TensorConfig("int8", scheme, granularity, "minmax")
    quantized = quantize_weight(weight, config, axis=1, framework="onnxruntime")
    assert quantized.values.dtype == quantized.zero_point.dtype == np.int8
    assert not quantized.values.flags.writeable
    if granularity == "per_channel":
        assert quantized.scale[1] == min(quantized.scale[0], quantized.scale[2])
    back = (quantized.values - quantized.zero_point.astype(np.float32)) * quantized.scale
    np.testing.assert_allclose(back, weight, atol=float(quantized.scale.max()))
    assert not back[:, 1].any()


def test_a_weight_of_zeros_alone_has_a_scale_too() -> None:
    config = TensorConfig("int8", "sym", "per_tensor", "minmax")
    quantized = quantize_weight(np.zeros((2, 3), np.float32), config, axis=0, framework="onnxruntime")
    assert 0 < quantized.scale < 1e-6
    assert not quantized.values.any()


def test_doubled_weights_stand_for_the_same_numbers() -> None:
    config = TensorConfig("int8", "sym", "per_channel", "minmax")
    weight = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    quantized = quantize_weight(weight, config, axis=1, framework="tensorflow", reduce_range=True)
    doubled = quantized.doubled()
    assert abs(quantized.values).max() <= 64
    assert not (doubled.values % 2).any()
    np.testing.assert_array_equal(doubled.values * doubled.scale, quantized.values * quantized.scale)


def test_content_tells_dtype_shape_and_values_apart() -> None:
    array = np.arange(6, dtype=np.int32)
    others = [array.astype(np.int64), array.reshape(2, 3), array[::-1], array.view(np.float32)]
    assert content(array) == content(array.copy())
    assert content(array[::2]) == content(np.array([0, 2, 4], np.int32))
    assert len({content(each) for each in (array, *others)}) == 5
    assert content(None) == ""
