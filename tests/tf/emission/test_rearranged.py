"""Transposed convolutions, and those in three dimensions: right, in integers, saved, and exact without VNNI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import check_files, forms_in, operators_in, quantized, random
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def built(shape: tuple[int, ...], *chain: Any) -> Any:
    inputs = tensor = keras.Input(shape, name="x")
    for layer in chain:
        tensor = layer(tensor)
    return randomized(keras.Model(inputs, tensor))


def is_right(model: Any, data: Any, least: float, kernels: int) -> Candidate:
    made = quantized(load_source(model), data)
    assert len(forms_in(made.model)) == kernels
    assert signal_to_noise_db(model(data).numpy(), made.callable(data).numpy()) > least
    return made


@pytest.mark.parametrize(
    ("size", "step", "padding"),
    [(1, 3, "same"), (2, 2, "valid"), (3, 1, "same"), (3, 2, "same"), (4, 2, "same"), (3, 2, "valid"), (5, 3, "same")],
)
def test_transposed_convolutions_of_every_size(size: int, step: int, padding: str) -> None:
    layer = layers.Conv2DTranspose(8, size, step, padding, activation="relu")
    is_right(built((6, 7, 5), layer), random(8, 6, 7, 5), 35, 1)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv2DTranspose(8, 3, (2, 1), "same", output_padding=(1, 0)),
        lambda: layers.Conv2DTranspose(8, (2, 5), (1, 3), "valid"),
        lambda: layers.Conv2DTranspose(8, 3, 3, "valid", output_padding=2),
    ],
)
def test_transposed_convolutions_of_unequal_steps_and_sizes(layer: Any) -> None:
    is_right(built((6, 7, 5), layer()), random(8, 6, 7, 5), 35, 1)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv3DTranspose(6, 3, 2, "same", activation="relu"),
        lambda: layers.Conv3DTranspose(6, 2, 2, use_bias=False),
        lambda: layers.Conv3DTranspose(6, 3, 2),
        lambda: layers.Conv3DTranspose(6, (4, 2, 3), (3, 1, 2), "same"),
        lambda: layers.Conv3DTranspose(6, (1, 3, 3), (1, 2, 2), "same", activation="relu6"),
        lambda: layers.Conv3DTranspose(6, 3, 1),
        lambda: layers.Conv3DTranspose(6, (3, 2, 1), (2, 2, 1), "valid"),
    ],
)
def test_transposed_convolutions_in_three_dimensions(layer: Any) -> None:
    is_right(built((3, 4, 5, 5), layer()), random(4, 3, 4, 5, 5), 35, 1)


def test_transposed_convolutions_in_one_dimension() -> None:
    is_right(built((9, 5), layers.Conv1DTranspose(8, 4, 2, "same")), random(8, 9, 5), 35, 1)


def test_a_decoder_of_a_segmentation_net(tmp_path: Path) -> None:
    model = built(
        (8, 8, 3),
        layers.Conv2D(8, 3, 2, "same", activation="relu"),
        layers.Conv2DTranspose(8, 4, 2, "same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Conv2DTranspose(4, 2, 2, activation="relu"),
        layers.Conv2D(2, 1),
    )
    data = random(16, 8, 8, 3)
    tuned = tf_ext.autotune(model, data, progress=False)
    assert [each.approach for each in tuned.tuning_result.operators] == ["static"] * 4
    got = tf_ext.convert(tuned)(data).numpy()
    assert signal_to_noise_db(model(data).numpy(), got) > 30
    check_files(tuned, model, data, tmp_path / "int8")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv3D(8, 3, padding="same", activation="relu"),
        lambda: layers.Conv3D(8, (3, 1, 2), strides=2, padding="same"),
        lambda: layers.Conv3D(8, (2, 3, 3), strides=(2, 1, 1)),
        lambda: layers.Conv3D(8, 1),
    ],
)
def test_convolutions_in_three_dimensions(layer: Any) -> None:
    is_right(built((6, 7, 5, 3), layer()), random(8, 6, 7, 5, 3), 35, 1)


def volumes(x: Any) -> Any:
    """A net of volumes: pooled, a sum, a skipped tensor joined again."""
    skipped = layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    pooled = layers.MaxPooling3D((2, 3, 1), (1, 2, 2), padding="same")(skipped)
    around = layers.Conv3D(8, 1, activation="relu")(pooled)
    inner = layers.Conv3D(8, (3, 1, 2), padding="same", activation="relu")(around)
    total = layers.ReLU()(layers.Conv3D(8, 3, padding="same")(inner) + around)
    spread = layers.Conv3DTranspose(6, (1, 2, 2), (1, 2, 2), activation="relu")(total)
    joined = layers.Concatenate()([spread[:, :, :7, :6], layers.Conv3D(6, 1)(skipped)])
    joined = layers.Conv3DTranspose(8, 3, 2, "same", activation="relu6")(layers.Conv3D(8, 2)(joined))
    return layers.Conv3D(3, 1)(joined)


def signed_images(x: Any) -> Any:
    """Transposed convolutions without a ReLU, cut at the ends, one of them beside a depthwise convolution."""
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(8, 3, 2, "same")(x)
    x = layers.Conv2DTranspose(8, 2, 2)(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    return layers.Conv2D(3, 1)(layers.Conv2DTranspose(8, (3, 2), (1, 2), "same")(x))


@pytest.mark.parametrize(
    ("body", "shape", "in_float"),
    [pytest.param(volumes, (4, 7, 6, 3), 2, id="volumes"), pytest.param(signed_images, (6, 7, 5), 1, id="images")],
)
def test_convolutions_of_all_kinds_hand_integers_on(body: Any, shape: tuple[int, ...], in_float: int) -> None:
    """But for the input, and a slice, which is no operator on integers."""
    inputs = keras.Input(shape, name="x")
    model, data = randomized(keras.Model(inputs, body(inputs))), random(8, *shape)
    made = quantized(load_source(model), data)
    found = operators_in(made)
    assert found.count("QuantizeV2") == in_float
    assert not {"MaxPool3D", "AddV2", "Relu", "Relu6", "Cast"} & set(found)
    assert signal_to_noise_db(model(data).numpy(), made.callable(data).numpy()) > 25


def test_what_has_no_form_in_integers_says_why() -> None:
    inputs = keras.Input((None, None, 4), name="x")
    free = keras.Model(inputs, layers.Conv2D(4, 1)(layers.Conv2DTranspose(4, 3, 2)(inputs)))
    ((kind, reason),) = Analysis(load_source(free)).skipped.values()
    assert kind == "Conv2DBackpropInput"
    assert "size of its images is not fixed" in reason


def test_a_type_without_kernel_is_simulated_with_the_same_weights() -> None:
    model = built((6, 7, 5), layers.Conv2DTranspose(8, 3, 2, "same"), layers.Conv2D(3, 1))
    activation = {"dtype": ["int8"], "scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    weight = {**activation, "dtype": ["int4"], "granularity": ["per_channel"]}
    options = {"static": {"Conv2DBackpropInput": {"weight": weight, "activation": activation}}}
    capability = [{"version": {"name": "default"}, "fp32": ["*"], "int4": options}]
    data = random(8, 6, 7, 5)
    tuned = tf_ext.autotune(model, data, capability=capability, progress=False)
    assert [each.simulated for each in tuned.tuning_result.operators if each.approach] == [True]
    assert 10 < signal_to_noise_db(model(data).numpy(), tf_ext.convert(tuned)(data).numpy()) < 35
