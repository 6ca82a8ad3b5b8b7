"""Keras layers that hold what a student knows of its integers: ranges that may be learned, and smoothing scales."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.vocabulary import RANGE_PACE, TrainedRanges
from inc_autotune.tf_ext.training.forms import ActivationForm, OperatorForm, activation_dict
from inc_autotune.tf_ext.training.rounding import rounded_activation, rounded_weight

PACKAGE = "inc_autotune"
"""Of the classes that `.keras` files name."""

MOVING_MOMENTUM = 0.99
"""Of ranges that follow the data."""


@keras.saving.register_keras_serializable(package=PACKAGE)
class ActivationQuantizer(keras.layers.Layer):  # type: ignore[misc]
    """Rounds one activation.

    A learned end of the range is the calibrated one times `exp(RANGE_PACE * variable)`: it keeps its sign, and a step
    of an optimizer is as large for a narrow range as for a wide one, as in TQT (Jain et al., Trained Quantization
    Thresholds, MLSys 2020). Its gradient is what makes plain gradient descent move it as if the variable were the
    logarithm.

    Args:
        form: integers and calibrated range.
        ranges: "learned": variables that the optimizer moves; "moving": an average of the ends of each batch while
            training; "fixed": as calibrated.
    """

    def __init__(self, form: ActivationForm, ranges: TrainedRanges, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.form = form
        self.ranges: TrainedRanges = "fixed" if form.is_fixed else ranges
        learned = self.ranges == "learned"
        ends = {"low": learned and form.scheme == "asym" and form.minimum < 0, "high": learned and form.maximum > 0}
        self.low, self.high = (
            self.add_weight(shape=(), initializer="zeros", name=name, trainable=moves) for name, moves in ends.items()
        )
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Its variables are made at once."""

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and largest value that its integers stand for."""
        minimum, maximum = self._ends()
        return float(minimum), float(maximum)

    def assign(self, minimum: float, maximum: float) -> None:
        """Take over a range, as `limits` gave it, as far as its ends may have the sign that they have here."""
        if self.form.is_fixed:
            return
        for name, calibrated, end in (("low", self.form.minimum, minimum), ("high", self.form.maximum, maximum)):
            if calibrated and end / calibrated > 0:
                getattr(self, name).assign(math.log(end / calibrated) / RANGE_PACE)

    def call(self, values: Any, training: bool | None = None) -> Any:
        if self.ranges == "moving" and training:
            self._follow(values)
        return tf.cast(rounded_activation(tf.cast(values, tf.float32), *self._ends(), self.form), values.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "form": activation_dict(self.form), "ranges": self.ranges}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActivationQuantizer:
        options = {key: value for key, value in config.items() if key not in ("form", "ranges", "dtype")}
        return cls(ActivationForm(**config["form"]), config["ranges"], **options)

    def _ends(self) -> tuple[Any, Any]:
        minimum, maximum = self.form.minimum * _factor(self.low), self.form.maximum * _factor(self.high)
        if self.form.scheme == "sym":
            minimum = -maximum if self.form.quant_min < 0 else tf.zeros_like(maximum)
        return minimum, maximum

    def _follow(self, values: Any) -> None:
        """Move both ends towards those of a batch, in proportion: as a learned range would."""
        values = tf.stop_gradient(tf.cast(values, tf.float32))
        found = {"low": tf.reduce_min(values), "high": tf.reduce_max(values)}
        if self.form.scheme == "sym" and self.form.quant_min < 0:
            found["high"] = tf.maximum(found["high"], -found["low"])
        for name, calibrated in (("low", self.form.minimum), ("high", self.form.maximum)):
            if calibrated:
                variable = getattr(self, name)
                end = _factor(variable) * MOVING_MOMENTUM + (1 - MOVING_MOMENTUM) * found[name] / calibrated
                variable.assign(tf.math.log(tf.maximum(end, math.exp(-8))) / RANGE_PACE)


def _factor(variable: Any) -> Any:
    """By which an end of a range has moved."""
    value = tf.convert_to_tensor(variable)
    backward = value / RANGE_PACE
    return tf.exp(backward + tf.stop_gradient(RANGE_PACE * value - backward))


@keras.saving.register_keras_serializable(package=PACKAGE)
class OperatorQuantizer(keras.layers.Layer):  # type: ignore[misc]
    """Rounds the weight of one operator, and knows its smoothing scale.

    Args:
        form: of the operator.
    """

    def __init__(self, form: OperatorForm, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.form = form
        self.smoothing = None
        if form.smoothed_shape is not None:
            self.smoothing = self.add_weight(
                shape=form.smoothed_shape, initializer="ones", name="smoothing", trainable=False
            )
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Its variables are made at once."""

    def weight(self, values: Any) -> Any:
        """The operator's weight, rounded; the smoothing scale is in it, if there is one."""
        form = self.form
        tensor_config: TensorConfig = form.config.weight
        if self.smoothing is not None:
            scale = tf.reshape(tf.convert_to_tensor(self.smoothing), [-1])
            scale = scale[:, None] if form.layout == "inputs_first" else scale[None]
            shape = [-1, form.features] if form.layout == "inputs_first" else [form.features, -1]
            values = tf.reshape(tf.reshape(values, shape) * scale, tf.shape(values))
        if tensor_config.is_float:
            return values
        return rounded_weight(values, tensor_config, form.features, form.layout, reduce_range=form.reduce_range)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "form": self.form.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OperatorQuantizer:
        options = {key: value for key, value in config.items() if key not in ("form", "dtype")}
        return cls(OperatorForm.from_dict(config["form"]), **options)
