"""Convolutions with groups: taken out of the functions that XLA compiles, right, in integers, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.emission.routes import GROUPED_KERNEL
from inc_autotune.tf_ext.measurement import kernel_trial
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import check_files, operators_in, quantized, random
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

SHAPE = (6, 6, 8)


def built(shape: tuple[int, ...], *chain: Any) -> Any:
    inputs = tensor = keras.Input(shape, name="x")
    for layer in chain:
        tensor = layer(tensor)
    return randomized(keras.Model(inputs, tensor))


def block() -> Any:
    """Between integer convolutions, with a BatchNorm and a function that the kernel does not know."""
    return built(
        SHAPE,
        layers.Conv2D(16, 1, activation="relu"),
        layers.Conv2D(16, 3, padding="same", groups=4, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Conv2D(8, 1),
    )


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        (SHAPE, lambda: layers.Conv2D(8, 3, padding="same", groups=2, activation="relu")),
        (SHAPE, lambda: layers.Conv2D(12, 1, groups=4)),
        (SHAPE, lambda: layers.Conv2D(16, 3, 2, groups=8, use_bias=False)),
        ((9, 9, 6), lambda: layers.Conv2D(9, 3, groups=3, dilation_rate=2)),
        ((9, 8), lambda: layers.Conv1D(8, 3, padding="causal", groups=2)),
    ],
)
def test_convolutions_with_groups(shape: tuple[int, ...], layer: Any) -> None:
    model, data = built(shape, layer()), random(8, *shape)
    made = quantized(load_source(model), data)
    assert operators_in(made).count("_FusedQuantizedConv2D") == 1
    assert "StatefulPartitionedCall" not in operators_in(made)
    assert signal_to_noise_db(model(data).numpy(), made.callable(data).numpy()) > 35


def test_every_feature_has_a_scale_of_its_own() -> None:
    model, data = built(SHAPE, layers.Conv2D(8, 3, groups=2, activation="relu")), random(8, *SHAPE)
    kernel, bias = model.get_weights()
    factors = np.float32(10.0) ** -np.arange(8)
    model.set_weights([kernel * factors, bias * factors])
    expected, got = (each(data).numpy() for each in (model, quantized(load_source(model), data).callable))
    for feature in range(8):
        assert signal_to_noise_db(expected[..., feature], got[..., feature]) > 30


@pytest.mark.parametrize("function", ["linear", "relu", "relu6"])
def test_a_bias_far_above_the_products(function: str) -> None:
    """As a BatchNorm leaves it of a channel that is nearly off."""
    model, data = built(SHAPE, layers.Conv2D(8, 3, groups=2, activation=function)), random(8, *SHAPE)
    kernel, bias = model.get_weights()
    kernel[..., 0] *= 1e-9
    bias[:2] = 3, -2
    model.set_weights([kernel, bias])
    got = quantized(load_source(model), data).callable(data).numpy()
    np.testing.assert_allclose(got[..., 0], 3, rtol=1e-6)
    assert signal_to_noise_db(model(data).numpy(), got) > 35


def test_it_is_tuned_saved_and_applied_again(tmp_path: Path) -> None:
    model, data = block(), random(16, *SHAPE)
    tuned = tf_ext.autotune(model, data, progress=False)
    assert [each.approach for each in tuned.tuning_result.operators] == ["static"] * 3
    got = tf_ext.convert(tuned)(data).numpy()
    assert signal_to_noise_db(model(data).numpy(), got) > 30
    check_files(tuned, model, data, tmp_path / "int8")


def test_a_kernel_that_knows_no_groups_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, data = block(), random(8, *SHAPE)
    tf_ext.save(tf_ext.autotune(model, data, progress=False), tmp_path / "int8")
    monkeypatch.setattr(kernel_trial, "_computes_groups", lambda: False)
    kernel_trial.kernel_support.cache_clear()
    try:
        assert kernel_trial.kernel_support().missing == (GROUPED_KERNEL,)
        result = tf_ext.autotune(model, data, progress=False).tuning_result
        assert [each.simulated for each in result.operators] == [False, True, False]
        with pytest.raises(ModelError, match="with groups"):
            tf_ext.load(tmp_path / "int8")
    finally:
        kernel_trial.kernel_support.cache_clear()


def test_only_a_single_convolution_is_taken_out_of_what_xla_compiles() -> None:
    weight = random(3, 3, 4, 8)
    compiled = tf.function(lambda x: tf.nn.relu(tf.nn.conv2d(x, weight, 1, "SAME")), jit_compile=True, autograph=False)
    function = tf.function(
        lambda x: compiled(x) @ random(8, 8),
        input_signature=[tf.TensorSpec([None, *SHAPE], name="x")],
        autograph=False,
    )
    ((kind, reason),) = Analysis(load_source(function)).skipped.values()
    assert kind == "Conv2D"
    assert "XLA compiles" in reason
