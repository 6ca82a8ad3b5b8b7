"""Fake-quantization in TensorFlow by the formulas that emission computes scales with. Gradients go straight through."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import quantization_parameters
from inc_autotune.tf_ext.calibration import FRAMEWORK
from inc_autotune.tf_ext.training.forms import ActivationForm, Layout

TINY = 1.1754944e-38
"""The smallest scale; a smaller one, of a tensor of zeros, becomes 1."""


def straight_through(values: Any) -> Any:
    """Round half to even; the gradient is that of the identity."""
    return values + tf.stop_gradient(tf.round(values) - values)


def rounded_activation(values: Any, minimum: Any, maximum: Any, form: ActivationForm) -> Any:
    """A tensor rounded to what its integers will stand for.

    The gradient of a value inside the range is 1 and outside 0; that of the ends is, as in LSQ+, the difference that
    moving them makes to what is rounded and clipped.

    Args:
        values: float32.
        minimum: end of the range, a scalar, at most 0.
        maximum: the other end, at least 0.
        form: integers and scheme.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020; Bhalgat et al., LSQ+, CVPRW 2020.
    """
    scale, zero_point = _grid(minimum, maximum, form.quant_min, form.quant_max, form.scheme)
    integers = straight_through(values / scale) + zero_point
    return (tf.clip_by_value(integers, float(form.quant_min), float(form.quant_max)) - zero_point) * scale


def rounded_weight(weight: Any, config: TensorConfig, features: int, layout: Layout, *, reduce_range: bool) -> Any:
    """A weight rounded to what its integers will stand for, in its own shape; the gradient is that of the identity.

    Args:
        weight: float32, of any shape; as a matrix it has `features` and the given layout.
        config: integer dtype, scheme and granularity.
        features: how many have a scale of their own, where the granularity is per channel.
        layout: of the weight as a matrix.
        reduce_range: one bit less.
    """
    by_features = [-1, features] if layout == "inputs_first" else [features, -1]
    matrix = tf.reshape(weight, by_features)
    axis = None if config.granularity != "per_channel" else 0 if layout == "inputs_first" else 1
    fixed = tf.stop_gradient(matrix)
    minimum = tf.minimum(tf.reduce_min(fixed, axis, keepdims=True), 0.0)
    maximum = tf.maximum(tf.reduce_max(fixed, axis, keepdims=True), 0.0)
    quant_min, quant_max = weight_integers(config, reduce_range=reduce_range)
    scale, zero_point = _grid(minimum, maximum, quant_min, quant_max, config.scheme or "sym")
    integers = tf.clip_by_value(tf.round(fixed / scale) + zero_point, float(quant_min), float(quant_max))
    rounded = (integers - zero_point) * scale
    return tf.reshape(matrix + tf.stop_gradient(rounded - matrix), tf.shape(weight))


def weight_integers(config: TensorConfig, *, reduce_range: bool) -> tuple[int, int]:
    """Smallest and largest integer of a weight."""
    made = quantization_parameters(
        -1.0,
        1.0,
        dtype=config.dtype,
        scheme=config.scheme or "sym",
        framework=FRAMEWORK,
        reduce_range=reduce_range,
    )
    return made.quant_min, made.quant_max


def _grid(minimum: Any, maximum: Any, quant_min: int, quant_max: int, scheme: str) -> tuple[Any, Any]:
    """Scale and zero point, see `quantization_parameters`, which knows no tensors of TensorFlow."""
    levels = float(quant_max - quant_min)
    if scheme == "asym":
        scale = (maximum - minimum) / levels
    elif quant_min < 0:
        scale = tf.maximum(-minimum, maximum) / max(levels / 2, 1.0)
    else:
        scale = maximum / levels
    scale = tf.where(scale < TINY, tf.ones_like(scale), scale)
    if scheme != "asym":
        return scale, tf.zeros_like(scale)
    zero_point = float(quant_min) - straight_through(minimum / scale)
    return scale, tf.clip_by_value(zero_point, float(quant_min), float(quant_max))
