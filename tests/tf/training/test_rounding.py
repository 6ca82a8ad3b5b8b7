"""What a student rounds to in TensorFlow is what emission computes with NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import fake_quantize
from inc_autotune.graphs.weights import quantize_weight
from inc_autotune.tf_ext.emission.activation_grid import activation_parameters
from inc_autotune.tf_ext.training.forms import ActivationForm
from inc_autotune.tf_ext.training.rounding import rounded_activation, rounded_weight

NUMBERS = st.floats(-8, 8, width=32)


@given(arrays(np.float32, (6, 4), elements=NUMBERS), st.integers(2, 8), st.booleans(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_weights(weight, bits, reduced, by_channel):
    reduced = reduced and bits == 8
    config = TensorConfig(f"int{bits}", "sym", "per_channel" if by_channel else "per_tensor", "minmax")
    expected = quantize_weight(weight, config, axis=1, framework="tensorflow", reduce_range=reduced).floats(1)
    made = rounded_weight(tf.constant(weight), config, 4, "inputs_first", reduce_range=reduced)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    turned = rounded_weight(tf.constant(weight.T), config, 4, "features_first", reduce_range=reduced)
    np.testing.assert_allclose(turned, expected.T, atol=1e-6)


def test_a_factor_of_each_feature_may_come_before_or_behind_the_rounding():
    """So a BatchNorm, which the converted model has in its weights, needs no part in training."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(3, 3, 8, 16)).astype(np.float32)
    factor = (generator.choice([-1, 1], 16) * generator.uniform(0.1, 4, 16)).astype(np.float32)
    config = TensorConfig("int8", "sym", "per_channel", "minmax")

    def rounded(values):
        return rounded_weight(tf.constant(values), config, 16, "inputs_first", reduce_range=True).numpy()

    np.testing.assert_allclose(rounded(weight * factor), rounded(weight) * factor, rtol=1e-4, atol=1e-6)


@given(
    arrays(np.float32, 20, elements=NUMBERS),
    st.floats(-6, 0, width=32),
    st.floats(0, 6, width=32),
    st.sampled_from(["asym", "sym"]),
)
@settings(max_examples=50, deadline=None)
def test_activations(values, minimum, maximum, scheme):
    config = TensorConfig("uint8" if scheme == "asym" else "int8", scheme, "per_tensor", "minmax")
    parameters = activation_parameters(config, (minimum, maximum))
    form = ActivationForm(parameters.quant_min, parameters.quant_max, scheme, minimum, maximum)
    made = rounded_activation(tf.constant(values), tf.constant(minimum), tf.constant(maximum), form)
    step = float(parameters.scale)
    apart = np.abs(made.numpy() - fake_quantize(values, parameters)) / step
    assert ((apart < 1e-2) | (np.abs(apart - 1) < 1e-2)).all()  # a value in the middle of two may go either way
    assert (apart > 0.5).mean() <= 0.2


@pytest.mark.parametrize(("scheme", "low", "high"), [("asym", 0.0, 255.0), ("sym", -127.0, 127.0)], ids=["asym", "sym"])
def test_gradients(scheme, low, high):
    """1 inside the range and 0 outside, where the end of the range gets the gradient instead."""
    form = ActivationForm(int(low), int(high), scheme, -2.0, 2.0)
    values, minimum, maximum = tf.constant([-3.0, -0.4, 0.7, 3.0, 5.0]), tf.constant(-2.0), tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch([values, minimum, maximum])
        ends = (minimum, maximum) if scheme == "asym" else (-maximum, maximum)
        total = tf.reduce_sum(rounded_activation(values, *ends, form))
    by_value, by_minimum, by_maximum = tape.gradient(total, [values, minimum, maximum])
    np.testing.assert_array_equal(by_value, [0, 1, 1, 0, 0])
    if scheme == "asym":
        assert float(by_minimum) == pytest.approx(1, abs=0.02)
        assert float(by_maximum) == pytest.approx(2, abs=0.02)
    else:
        assert float(by_maximum) == pytest.approx(1, abs=0.02)
