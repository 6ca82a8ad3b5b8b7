"""The TensorFlow scheme table against TensorFlow's own quantization op."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from inc_autotune.core.quantization.affine import dequantize, quantization_parameters, quantize  # noqa: E402


def samples() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = [
        (generator.standard_normal(512) * scale + shift).astype(np.float32)
        for scale in (0.1, 1, 50)
        for shift in (-2, 0, 3)
    ]
    return [*noise, np.maximum(noise[4], 0)]


def assert_same_integers(ours: np.ndarray, theirs: np.ndarray) -> None:
    """But for values half-way between two integers, which a last-bit difference of the scale may move."""
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.01


def test_symmetric_int8_is_scaled_with_narrow_range() -> None:
    for x in samples():
        ours = quantization_parameters(x.min(), x.max(), dtype="int8", scheme="sym", framework="tensorflow")
        theirs = tf.quantization.quantize(
            x, x.min(), x.max(), tf.qint8, mode="SCALED", round_mode="HALF_TO_EVEN", narrow_range=True
        )
        assert_same_integers(quantize(x, ours), tf.cast(theirs.output, tf.int32).numpy())
        assert float(theirs.output_max) == pytest.approx(float(ours.scale) * 127, rel=1e-6)
        assert float(theirs.output_min) == pytest.approx(float(ours.scale) * -127, rel=1e-6)


def test_symmetric_uint8_is_scaled_and_clips_what_is_negative() -> None:
    for x in samples():
        if x.max() <= 0:
            continue
        ours = quantization_parameters(x.min(), x.max(), dtype="uint8", scheme="sym", framework="tensorflow")
        theirs = tf.quantization.quantize(
            np.maximum(x, 0), 0.0, x.max(), tf.quint8, mode="SCALED", round_mode="HALF_TO_EVEN"
        )
        assert_same_integers(quantize(x, ours), tf.cast(theirs.output, tf.int32).numpy())
        assert float(theirs.output_max) == pytest.approx(float(ours.scale) * 255, rel=1e-6)


def test_asymmetric_uint8_is_min_first_over_the_range_with_an_exact_zero() -> None:
    for x in samples():
        ours = quantization_parameters(x.min(), x.max(), dtype="uint8", scheme="asym", framework="tensorflow")
        low, high = dequantize(np.float32([ours.quant_min, ours.quant_max]), ours)
        theirs = tf.quantization.quantize(
            x, low, high, tf.quint8, mode="MIN_FIRST", round_mode="HALF_AWAY_FROM_ZERO", ensure_minimum_range=0.0
        )
        assert_same_integers(quantize(x, ours), tf.cast(theirs.output, tf.int32).numpy())
        restored = tf.quantization.dequantize(theirs.output, theirs.output_min, theirs.output_max, mode="MIN_FIRST")
        np.testing.assert_allclose(restored, dequantize(quantize(x, ours), ours), atol=float(ours.scale) * 1.01)


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_integers_of_any_width_match_fake_quant(bits: int) -> None:
    for x in samples():
        absmax = np.abs(x).max()
        ours = quantization_parameters(x.min(), x.max(), dtype=f"int{bits}", scheme="sym", framework="tensorflow")
        theirs = tf.quantization.fake_quant_with_min_max_args(
            x, -float(absmax), float(absmax), num_bits=bits, narrow_range=True
        )
        difference = np.abs(dequantize(quantize(x, ours), ours) - theirs.numpy()) / float(ours.scale)
        assert np.mean(difference > 0.5) < 0.01
