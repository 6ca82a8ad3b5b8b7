"""The sum that ends a residual block, computed by its last convolution."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import operators_in, quantized, random, source_of
from tests.tf.small_models import randomized

SHAPE = (12, 12, 4)


def convolution(x, activation=None, size=3, strides=1):
    return layers.Conv2D(8, size, strides, padding="same", activation=activation)(x)


def branch(x):
    return convolution(convolution(x, "relu"))


def block(x, function="relu"):
    return layers.Activation(function)(branch(x) + x)


def network(body):
    inputs = keras.Input(SHAPE, name="x")
    return load_source(randomized(keras.Model(inputs, body(inputs))))


def sums_in(candidate):
    """How many sums convolutions compute."""
    nodes = next(iter(candidate.model.signatures.values())).graph_def.node
    return sum(b"Sum" in node.attr["fused_ops"].list.s for node in nodes if node.op == "_FusedQuantizedConv2D")


def compared(source, data):
    """The quantized model, and how near each of its outputs is to fp32, in decibels."""
    model = quantized(source, data)
    outputs = [candidate.callable.default(data) for candidate in (Candidate(source), model)]
    return model, [signal_to_noise_db(value.numpy(), outputs[1][name].numpy()) for name, value in outputs[0].items()]


def in_a_chain(x):
    for _ in range(3):
        x = block(x)
    return convolution(x)


def read_by_another_later(x):
    inner = convolution(block(x), "relu")
    return convolution(layers.Concatenate()([inner, x]))


def read_as_real_numbers_too(x):
    return convolution(block(x)) + layers.GlobalAveragePooling2D(keepdims=True)(layers.Activation("sigmoid")(x))


@pytest.mark.parametrize(
    ("body", "sums"),
    [
        pytest.param(lambda x: convolution(block(x)), 1, id="one block"),
        pytest.param(lambda x: convolution(block(x, "relu6")), 1, id="relu6"),
        pytest.param(in_a_chain, 3, id="chain"),
        pytest.param(lambda x: convolution(layers.ReLU()(convolution(x) + x)), 1, id="reads what it adds"),
        pytest.param(read_by_another_later, 1, id="read later"),
        pytest.param(read_as_real_numbers_too, 1, id="read as float"),
        pytest.param(lambda x: convolution(block(layers.MaxPooling2D(2)(x))), 1, id="pooled"),
        pytest.param(lambda x: convolution(branch(x) + x), 0, id="no function"),
        pytest.param(lambda x: branch(x) + convolution(x), 0, id="no reader"),
        pytest.param(lambda x: layers.ReLU()(branch(x) + x), 0, id="no integer reader"),
        pytest.param(lambda x: convolution(layers.ReLU()(branch(x) + convolution(x))), 0, id="signed"),
        pytest.param(lambda x: convolution(block(layers.ReLU()(branch(x) + convolution(x)))), 1, id="quantized for it"),
    ],
)
def test_sums_of_unsigned_integers_belong_to_the_convolution(body, sums):
    source, data = network(lambda x: body(convolution(x, "relu"))), random(16, *SHAPE)
    model, decibels = compared(source, data)
    assert sums_in(model) == sums
    assert operators_in(model).count("AddV2") == operators_in(Candidate(source)).count("AddV2") - sums
    assert min(decibels) > 30
    # The kernel writes over what it adds: nobody else may see that.
    again = [next(iter(model.callable.default(data).values())).numpy() for _ in range(3)]
    assert all(np.array_equal(each, again[0]) for each in again)


def test_what_is_added_may_be_an_output():
    def body(x):
        x = convolution(x, "relu")
        y = block(x)
        return [convolution(y), y, x]

    model, decibels = compared(network(body), random(16, *SHAPE))
    assert sums_in(model) == 1
    assert min(decibels) > 30


def test_sums_stay_where_they_are_not_wanted():
    source, data = network(lambda x: in_a_chain(convolution(x, "relu"))), random(16, *SHAPE)
    fused, separate = (quantized(source, data, fuse_residual=wanted) for wanted in (True, False))
    assert [sums_in(each) for each in (fused, separate)] == [3, 0]
    expected = Candidate(source).callable(data).numpy()
    decibels = [signal_to_noise_db(expected, each.callable(data).numpy()) for each in (fused, separate)]
    assert decibels[0] < decibels[1]


def test_a_sum_that_may_be_broadcast_stays():
    filters = random(3, 3, 4, 4) / 6

    def convolved(x):
        return tf.nn.conv2d(x, filters, 1, "SAME")

    def function(x, y):
        x, y = tf.nn.relu(convolved(x)), tf.nn.relu(convolved(y))
        return convolved(tf.nn.relu(convolved(x) + y)) + convolved(y)

    specs = [tf.TensorSpec((None, *SHAPE), name=name) for name in ("x", "y")]
    source, data = source_of(function, *specs), {name: random(16, *SHAPE) for name in ("x", "y")}
    model = quantized(source, data)
    assert sums_in(model) == 0
    one = {"x": data["x"], "y": data["y"][:1]}
    expected, actual = (each.callable(one).numpy() for each in (Candidate(source), model))
    assert signal_to_noise_db(expected, actual) > 30
