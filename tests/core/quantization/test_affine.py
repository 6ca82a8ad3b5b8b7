from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import (
    FRAMEWORK_SCHEMES,
    dequantize,
    fake_quantize,
    integer_type,
    quantization_parameters,
    quantize,
    signal_to_noise_db,
)
from inc_autotune.core.quantization.weight_grid import weight_parameters

NAMESPACES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]
DTYPES = [f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 9)]
FRAMEWORKS = sorted(FRAMEWORK_SCHEMES)
REALS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def make(namespace: str, values: Any, dtype: str = "float32") -> Any:
    if namespace == "numpy":
        return np.asarray(values, dtype=dtype)
    import torch

    return torch.tensor(np.asarray(values, dtype=np.float32)).to(getattr(torch, dtype))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "minimum", "maximum"),
    [("int8", -128, 127), ("uint8", 0, 255), ("int4", -8, 7), ("uint4", 0, 15), ("int1", -1, 0), ("uint1", 0, 1)],
)
def test_integer_types(name: str, minimum: int, maximum: int) -> None:
    kind = integer_type(name)
    assert (kind.minimum, kind.maximum) == (minimum, maximum)


@pytest.mark.parametrize("name", ["int9", "int0", "fp32", "INT8", "int", 8, None])
def test_unknown_integer_type_is_an_error_that_names_it(name: Any) -> None:
    with pytest.raises(ArgumentError, match="not an integer type"):
        integer_type(name)


@pytest.mark.parametrize(
    ("framework", "dtype", "scheme", "reduce_range", "expected"),
    [
        # absmax 4: (scale, zero point, quant_min, quant_max)
        ("pytorch", "int8", "sym", False, (4 / 127.5, 0, -128, 127)),
        ("pytorch", "uint8", "sym", False, (4 / 127.5, 128, 0, 255)),
        ("pytorch", "uint8", "asym", False, (5 / 255, 51, 0, 255)),
        ("pytorch", "int8", "asym", False, (5 / 255, -77, -128, 127)),
        ("pytorch", "int8", "sym", True, (4 / 63.5, 0, -64, 63)),
        ("pytorch", "uint8", "asym", True, (5 / 127, 25, 0, 127)),
        ("pytorch", "uint8", "sym", True, (4 / 63.5, 64, 0, 127)),
        ("onnxruntime", "int8", "sym", False, (4 / 127, 0, -127, 127)),
        ("onnxruntime", "uint8", "sym", False, (4 / 127.5, 128, 0, 255)),
        ("onnxruntime", "uint8", "asym", False, (5 / 255, 51, 0, 255)),
        ("onnxruntime", "int8", "sym", True, (4 / 64, 0, -64, 64)),
        ("onnxruntime", "int4", "sym", False, (4 / 7.5, 0, -8, 7)),
        ("tensorflow", "int8", "sym", False, (4 / 127, 0, -127, 127)),
        ("tensorflow", "uint8", "sym", False, (4 / 255, 0, 0, 255)),
        ("tensorflow", "int8", "sym", True, (4 / 63, 0, -63, 63)),
        ("tensorflow", "int4", "sym", False, (4 / 7, 0, -7, 7)),
        ("ipex", "int8", "sym", False, (4 / 127, 0, -127, 127)),
        ("ipex", "uint8", "sym", False, (4 / 255, 0, 0, 255)),
        ("mxnet", "int8", "sym", False, (4 / 127, 0, -127, 127)),
        ("mxnet", "uint8", "sym", False, (4 / 255, 0, 0, 255)),
    ],
)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_scheme_table(
    namespace: str, framework: str, dtype: str, scheme: str, reduce_range: bool, expected: tuple[float, ...]
) -> None:
    parameters = quantization_parameters(
        make(namespace, [-1.0]),
        make(namespace, [4.0]),
        dtype=dtype,
        scheme=scheme,
        framework=framework,
        reduce_range=reduce_range,
    )
    scale, zero_point, quant_min, quant_max = expected
    assert float(parameters.scale[0]) == pytest.approx(scale, rel=1e-6)
    assert int(parameters.zero_point[0]) == zero_point
    assert (parameters.quant_min, parameters.quant_max) == (quant_min, quant_max)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_every_bit_width_has_levels_and_uses_at_least_two(
    framework: str, scheme: str, dtype: str, reduce_range: bool
) -> None:
    parameters = quantization_parameters(
        -3.0, 3.5, dtype=dtype, scheme=scheme, framework=framework, reduce_range=reduce_range
    )
    kind = integer_type(dtype)
    assert kind.minimum <= parameters.quant_min < parameters.quant_max <= kind.maximum
    assert 0 < float(parameters.scale) < math.inf
    integers = quantize(np.linspace(-3.0, 3.5, 1000, dtype=np.float32), parameters)
    assert np.unique(integers).size >= 2
    assert np.unique(integers).size <= 2**kind.bits


@settings(max_examples=60, deadline=None)
@given(
    bounds=st.tuples(REALS, REALS),
    dtype=st.sampled_from(DTYPES),
    scheme=st.sampled_from(["sym", "asym"]),
    framework=st.sampled_from(FRAMEWORKS),
    reduce_range=st.booleans(),
    fractions=arrays(np.float32, 32, elements=st.floats(0, 1, width=32)),
)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_round_trip(
    namespace: str,
    bounds: tuple[float, float],
    dtype: str,
    scheme: str,
    framework: str,
    reduce_range: bool,
    fractions: np.ndarray,
) -> None:
    """Within half a step inside the range, exact at zero, monotone, idempotent."""
    low, high = min(bounds), max(bounds)
    parameters = quantization_parameters(
        low, high, dtype=dtype, scheme=scheme, framework=framework, reduce_range=reduce_range
    )
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    assert parameters.quant_min <= zero_point <= parameters.quant_max
    assert float(fake_quantize(make(namespace, 0.0), parameters)) == 0.0

    values = np.sort(np.float32(low) + fractions * np.float32(high - low))
    representable_low = (parameters.quant_min - zero_point) * scale
    representable_high = (parameters.quant_max - zero_point) * scale
    rounded = np.asarray(fake_quantize(make(namespace, values), parameters))
    clipped = np.clip(values, representable_low, representable_high)
    tolerance = scale / 2 * (1 + 1e-5) + 1e-6 * max(abs(low), abs(high))
    assert np.all(np.abs(rounded - clipped) <= tolerance)
    assert np.all(np.diff(rounded) >= 0)
    assert np.array_equal(np.asarray(fake_quantize(make(namespace, rounded), parameters)), rounded)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_dead_range_has_a_positive_scale(framework: str, scheme: str, value: float) -> None:
    parameters = quantization_parameters(-value, value, dtype="int8", scheme=scheme, framework=framework)
    assert float(parameters.scale) > 0
    assert np.array_equal(fake_quantize(np.zeros(4, np.float32), parameters), np.zeros(4))


def test_constant_tensor_is_kept() -> None:
    for value in (3.0, -3.0):
        parameters = quantization_parameters(value, value, dtype="uint8", scheme="asym")
        assert fake_quantize(np.float32([value]), parameters)[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1), (0, math.inf), (-math.inf, 0), (2, 1), (-3e38, 3e38)])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_unusable_range_is_an_error(namespace: str, low: float, high: float) -> None:
    with pytest.raises(ArgumentError, match="not a range to quantize"):
        quantization_parameters(make(namespace, low), make(namespace, high), dtype="uint8", scheme="asym")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int16"}, "not an integer type"),
        ({"scheme": "symm"}, "Did you mean 'sym'"),
        ({"framework": "torch"}, "Did you mean 'pytorch'"),
    ],
)
def test_unknown_choice_is_an_error(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        quantization_parameters(-1.0, 1.0, **{"dtype": "int8", "scheme": "sym", **changes})


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_per_channel_along_any_axis(namespace: str) -> None:
    weight = random(3, 4, 5)
    config = TensorConfig("int8", "sym", "per_channel", "minmax")
    for axis in (0, 1, -1):
        parameters = weight_parameters(make(namespace, weight), config, axis=axis)
        assert parameters.scale.shape == (weight.shape[axis],)
        rounded = np.asarray(fake_quantize(make(namespace, weight), parameters, axis))
        for index in range(weight.shape[axis]):
            single = weight_parameters(np.take(weight, index, axis), TensorConfig("int8", "sym", "per_tensor"))
            expected = fake_quantize(np.take(weight, index, axis), single)
            np.testing.assert_allclose(np.take(rounded, index, axis), expected, rtol=1e-6)


def test_scales_that_do_not_fit_the_axis_are_an_error() -> None:
    parameters = weight_parameters(random(4, 6), TensorConfig("int8", "sym", "per_channel"))
    for axis in (None, 1, 5):
        with pytest.raises(ArgumentError, match="4 scales do not fit"):
            quantize(random(4, 6), parameters, axis)


@settings(max_examples=40, deadline=None)
@given(
    weight=arrays(np.float32, (4, 8), elements=REALS),
    dtype=st.sampled_from([f"int{bits}" for bits in range(2, 9)]),
    framework=st.sampled_from(FRAMEWORKS),
)
def test_per_channel_bound_is_never_worse_than_per_tensor(weight: np.ndarray, dtype: str, framework: str) -> None:
    """Each channel's step, and so its worst rounding error, is at most the tensor's."""
    channel = weight_parameters(weight, TensorConfig(dtype, "sym", "per_channel", "minmax"), framework=framework)
    tensor = weight_parameters(weight, TensorConfig(dtype, "sym", "per_tensor", "minmax"), framework=framework)
    table = FRAMEWORK_SCHEMES[framework]
    live = np.abs(weight).max(axis=1) > table.smallest_scale * 256
    assert np.all(channel.scale[live] <= tensor.scale)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_per_channel_mse_is_not_worse_than_per_tensor(bits: int, framework: str) -> None:
    weight = random(16, 64) * np.geomspace(0.05, 2.0, 16, dtype=np.float32)[:, None]
    errors = {}
    for granularity in ("per_channel", "per_tensor"):
        parameters = weight_parameters(
            weight, TensorConfig(f"int{bits}", "sym", granularity, "minmax"), framework=framework
        )
        rounded = fake_quantize(weight, parameters, 0 if granularity == "per_channel" else None)
        errors[granularity] = float(((rounded - weight) ** 2).mean())
    assert errors["per_channel"] < errors["per_tensor"]


@settings(max_examples=25, deadline=None)
@given(weight=arrays(np.float32, (3, 16), elements=REALS), dtype=st.sampled_from(DTYPES))
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_mse_is_never_worse_than_minmax(granularity: str, weight: np.ndarray, dtype: str) -> None:
    axis = 0 if granularity == "per_channel" else None
    errors = []
    for algorithm in ("mse", "minmax"):
        parameters = weight_parameters(weight, TensorConfig(dtype, "sym", granularity, algorithm))
        squared = (fake_quantize(weight, parameters, axis) - weight) ** 2
        errors.append(squared.sum(axis=None if axis is None else 1))
    assert np.all(errors[0] <= errors[1] * (1 + 1e-5))


def test_mse_shrinks_the_range_at_four_bits() -> None:
    weight = random(8, 512)
    snr = {}
    for algorithm in ("minmax", "mse"):
        parameters = weight_parameters(weight, TensorConfig("int4", "sym", "per_channel", algorithm))
        snr[algorithm] = signal_to_noise_db(weight, fake_quantize(weight, parameters, 0))
    assert snr["mse"] > snr["minmax"] + 0.5


@pytest.mark.parametrize("changes", [{"granularity": "per_group"}, {"algorithm": "kl"}, {"dtype": "fp32"}])
def test_weight_config_that_cannot_be_used_is_an_error(changes: dict[str, str]) -> None:
    config = {"dtype": "int8", "scheme": "sym", "granularity": "per_channel", "algorithm": "minmax", **changes}
    with pytest.raises(ArgumentError):
        weight_parameters(random(2, 2), TensorConfig(**config))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_dtypes_are_computed_in_float32_and_keep_their_dtype(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(random(64)).to(getattr(torch, dtype))
    parameters = quantization_parameters(x.min(), x.max(), dtype="uint8", scheme="asym")
    assert parameters.scale.dtype == torch.float32
    integers = quantize(x, parameters)
    assert integers.dtype == x.dtype
    assert torch.equal(integers.float(), quantize(x.float(), parameters))
    assert fake_quantize(x, parameters).dtype == x.dtype
    assert torch.equal(fake_quantize(x, parameters), fake_quantize(x.float(), parameters).to(x.dtype))


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_dequantize_takes_real_integers_and_inputs_are_untouched(namespace: str) -> None:
    x = make(namespace, random(5, 7))
    before = np.asarray(x).copy()
    parameters = quantization_parameters(-3.0, 3.0, dtype="int8", scheme="sym")
    integers = quantize(x, parameters)
    stored = np.asarray(integers).astype(np.int8)
    np.testing.assert_array_equal(dequantize(stored, parameters), np.asarray(fake_quantize(x, parameters)))
    assert dequantize(stored, parameters).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(x), before)


def test_namespaces_agree() -> None:
    pytest.importorskip("torch")
    weight = random(16, 32)
    for framework in FRAMEWORKS:
        for dtype in DTYPES:
            config = TensorConfig(dtype, "asym", "per_channel", "mse")
            results = [
                np.asarray(fake_quantize(w, weight_parameters(w, config, framework=framework), 0))
                for w in (weight, make("torch", weight))
            ]
            np.testing.assert_allclose(results[0], results[1], atol=1e-6)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_signal_to_noise(namespace: str) -> None:
    x = make(namespace, [3.0, 4.0])
    assert signal_to_noise_db(x, x * 1.1) == pytest.approx(20.0, abs=1e-4)
    assert signal_to_noise_db(x, x) == math.inf
    assert signal_to_noise_db(x * 0, x) == -math.inf
