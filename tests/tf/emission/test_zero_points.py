"""Convolutions of what is not symmetric around zero: nearer to fp32 with a zero point, and right at the margins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, grid_of, shifted_grid
from inc_autotune.tf_ext.measurement.kernel_trial import kernel_support
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import operators_in, quantized, random
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

SYMMETRIC = {"activation": {"scheme": ["sym"]}}


def built(shape: tuple[int | None, ...], *chain: Any) -> Any:
    inputs = tensor = keras.Input(shape, name="x")
    for layer in chain:
        tensor = layer(tensor)
    return randomized(keras.Model(inputs, tensor))


def skewed(*shape: int) -> Any:
    """Numbers from about -0.3 to 3, as behind SiLU."""
    x = 2 * random(*shape)
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("shape", "layer", "padded"),
    [
        ((7, 8, 6), lambda: layers.Conv2D(8, 3, padding="same", activation="relu"), True),
        ((7, 8, 6), lambda: layers.Conv2D(8, (3, 2), 2, padding="same"), True),
        ((9, 9, 6), lambda: layers.Conv2D(8, 3), False),
        ((7, 8, 6), lambda: layers.Conv2D(8, 1, use_bias=False), False),
        ((7, 8, 6), lambda: layers.Conv2D(8, 3, padding="same", groups=2), True),
        ((9, 6), lambda: layers.Conv1D(8, 3, padding="same"), True),
        ((7, 8, 6), lambda: layers.Conv2DTranspose(8, 3, 2, "same"), True),
        ((7, 8, 6), lambda: layers.Conv2DTranspose(8, 2, 2), False),
        ((4, 5, 6, 4), lambda: layers.Conv3D(8, 3, padding="same"), True),
        ((4, 5, 6, 4), lambda: layers.Conv3DTranspose(8, 3, 2, "same"), True),
    ],
)
def test_zero_points_halve_the_error(shape: tuple[int, ...], layer: Callable[[], Any], padded: bool) -> None:
    model, data = built(shape, layer()), skewed(8, *shape)
    expected = model(data).numpy()
    tuned = [
        tf_ext.autotune(model, data, op_type_dict=rules, objective="modelsize", progress=False)
        for rules in (
            None,
            dict.fromkeys(("Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2"), SYMMETRIC),
        )
    ]
    with_zero_point, symmetric = (signal_to_noise_db(expected, tf_ext.convert(each)(data).numpy()) for each in tuned)
    # Of weights of 7 bits, or of even ones, the error is twice as large, and all that this does not change.
    assert with_zero_point > symmetric + (1 if kernel_support().reduced else 2.5)
    assert with_zero_point > 36
    nodes = operators_in(quantized(load_source(model), data))
    assert ("PadV2" in nodes) == padded


def test_margins_are_as_right_as_the_middle() -> None:
    """What lies beyond an image is zero, whatever the integers are that stand for it."""
    model, data = built((9, 9, 6), layers.Conv2D(8, 3, padding="same")), skewed(16, 9, 9, 6)
    expected, got = model(data).numpy(), quantized(load_source(model), data).callable(data).numpy()
    middle = signal_to_noise_db(expected[:, 1:-1, 1:-1], got[:, 1:-1, 1:-1])
    for margin in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert signal_to_noise_db(expected[margin], got[margin]) > middle - 2


@pytest.mark.parametrize("make", [lambda *shape: random(*shape), lambda *shape: np.abs(random(*shape))])
def test_without_a_gain_there_is_no_zero_point(make: Callable[..., Any]) -> None:
    model, data = built((7, 8, 6), layers.Conv2D(8, 3, padding="same")), make(8, 7, 8, 6)
    data[0, 0, 0, :2] = 4, -4 if data.min() < 0 else 0
    nodes = operators_in(quantized(load_source(model), data))
    assert "_FusedQuantizedConv2D" in nodes
    assert not {"PadV2", "Sub"} & set(nodes)


def test_images_of_unknown_size_have_one_where_the_padding_is_known() -> None:
    for step, padded in ((1, True), (2, False)):
        model = built((None, None, 6), layers.Conv2D(8, 3, step, "same"))
        data = skewed(8, 7, 8, 6)
        made = quantized(load_source(model), data)
        assert ("PadV2" in operators_in(made)) == padded
        assert signal_to_noise_db(model(data).numpy(), made.callable(data).numpy()) > 30


def test_values_that_are_all_negative() -> None:
    model, data = built((7, 8, 6), layers.Conv2D(8, 3, padding="same")), -1 - np.abs(random(8, 7, 8, 6))
    made = quantized(load_source(model), data)
    assert signal_to_noise_db(model(data).numpy(), made.callable(data).numpy()) > 36


def test_zero_is_one_of_the_integers() -> None:
    grid = shifted_grid((-0.278, 5.3))
    assert grid.scale < grid_of(CONVOLVED, (-0.278, 5.3)).scale * 0.55
    assert -127 <= grid.shift < 0
    for value, integer in ((-0.278, -127), (5.3, 127)):
        assert round(value / grid.scale) + grid.shift == pytest.approx(integer, abs=1)
