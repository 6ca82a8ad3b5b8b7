"""Tensors that convolutions share with poolings and concatenations, read in ranges that differ."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.tf_ext.calibration.plan import QuantizationPlan
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, grid_of
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.emission.on_integers import emit_on_integers
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import graph_of, operators_in, quantized, random, source_of
from tests.tf.small_models import randomized

SHAPE = (12, 12, 4)


def convolution(x, activation=None, *, gain=1.0, size=3, strides=1, shift=0.0):
    """With values `gain` times as large as those it reads, more or less, and a bias of about `shift`."""
    layer = layers.Conv2D(8, size, strides, padding="same", activation=activation)
    layer.gain, layer.shift = gain, shift
    return layer(x)


def pooled(x, size=3, strides=1, padding="same"):
    return layers.MaxPooling2D(size, strides, padding=padding)(x)


def joined(*tensors):
    return layers.Concatenate()(list(tensors))


def network(body):
    """A model whose first operator is a ReLU'd convolution."""
    inputs = keras.Input(SHAPE, name="x")
    model = randomized(keras.Model(inputs, body(convolution(inputs, "relu"))))
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * layer.gain, bias * layer.gain + layer.shift])
    return load_source(model)


def decibels(source, data, **choices):
    """How near each output is to fp32, and the model."""
    model = quantized(source, data, **choices)
    expected, actual = (each.callable.default(data) for each in (Candidate(source), model))
    return [signal_to_noise_db(value.numpy(), actual[name].numpy()) for name, value in expected.items()], model


def signed_and_unsigned(x):
    signed, unsigned = convolution(x, size=1), convolution(x, "relu", gain=3)
    return convolution(joined(signed, unsigned, pooled(x)))


def signed_read_directly_and_pooled(x):
    x = convolution(x)
    return [convolution(pooled(x, 9)), convolution(x)]


def signed_read_directly_before_pooled(x):
    x = convolution(x)
    direct = convolution(x)
    return [direct, convolution(pooled(x, 9))]


def signed_pooled_and_real(x):
    x = convolution(x)
    return [convolution(pooled(x, 9)), layers.Activation("tanh")(x)]


def pooled_with_gaps_and_real(x):
    return [convolution(pooled(x, 1, 5)), x]


def pooled_without_the_edge_and_real(x):
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = convolution(x, "relu")
    return [convolution(pooled(x, 2, 2, "valid")), layers.Activation("tanh")(x)]


def two_concatenations(x):
    first, second, third = (convolution(x, "relu", gain=gain) for gain in (1, 8, 0.2))
    return [convolution(joined(first, second)), convolution(joined(first, third)), convolution(first)]


def residual_around_a_pooling(x):
    y = convolution(x)
    total = layers.ReLU()(convolution(convolution(x, "relu")) + y)
    return [convolution(total), convolution(pooled(y, 9))]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            lambda x: convolution(joined(convolution(x, "relu", gain=8, strides=2), pooled(x, 3, 2))), id="reduction"
        ),
        pytest.param(lambda x: convolution(joined(x, convolution(x, "relu", gain=8))), id="dense block"),
        pytest.param(lambda x: convolution(joined(x, convolution(x, "relu", gain=0.1))), id="small beside large"),
        pytest.param(
            lambda x: convolution(joined(convolution(x, "relu6", gain=8), convolution(x, "relu", gain=20))),
            id="relu6 beside relu",
        ),
        pytest.param(
            lambda x: convolution(joined(convolution(x, "relu6", gain=8), convolution(x, gain=20))),
            id="relu6 beside signed",
        ),
        pytest.param(
            lambda x: convolution(joined(convolution(x, "relu6", gain=8), convolution(x, "relu6"))), id="relu6"
        ),
        signed_and_unsigned,
        signed_read_directly_and_pooled,
        signed_read_directly_before_pooled,
        signed_pooled_and_real,
        pooled_with_gaps_and_real,
        pooled_without_the_edge_and_real,
        two_concatenations,
        residual_around_a_pooling,
    ],
)
def test_poolings_and_concatenations_cost_no_accuracy(body):
    source, data = network(body), random(16, *SHAPE)
    separate, _ = decibels(source, data, propagate_max_pooling=False, propagate_concat=False, fuse_residual=False)
    shared, _ = decibels(source, data)
    assert min(separate) > 30
    assert all(each > other - 1 for each, other in zip(shared, separate, strict=True))


def test_a_concatenation_of_what_is_read_by_nobody_else_works_on_integers():
    """Whatever the ranges of its inputs are: its readers have one."""
    source = network(lambda x: convolution(joined(convolution(x, "relu"), convolution(x, gain=8))))
    model = decibels(source, random(16, *SHAPE))[1]
    assert (operators_in(model).count("QuantizeV2"), operators_in(model).count("Dequantize")) == (1, 0)


def test_about_equal_ranges_are_one():
    """Of what is read directly too."""
    source = network(lambda x: [convolution(joined(x, convolution(x, "relu", gain=0.1))), convolution(pooled(x))])
    model = decibels(source, random(16, *SHAPE))[1]
    assert (operators_in(model).count("QuantizeV2"), operators_in(model).count("Dequantize")) == (1, 0)


def test_max_poolings_with_explicit_padding_work_on_real_numbers():
    filters = random(3, 3, 4, 4) / 6

    def function(x):
        x = tf.nn.relu(tf.nn.conv2d(x, filters, 1, "SAME"))
        return tf.nn.conv2d(tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]), filters, 1, "SAME")

    found, model = decibels(source_of(function, tf.TensorSpec((None, *SHAPE), name="x")), random(16, *SHAPE))
    assert min(found) > 30
    assert operators_in(model).count("MaxPool") == 1


def with_integers(**limits):
    """A graph that concatenates tensors, with integers of them for values up to these limits."""
    specs = [tf.TensorSpec([4, 4], name=name) for name in limits]
    graph = graph_of(source_of(lambda *tensors: tf.concat(tensors, -1), *specs))
    emission = Emission(graph, QuantizationPlan({}, {}), WeightCache())
    for name, largest in limits.items():
        grid = grid_of(CONVOLVED, (0.0, largest))
        emission.make_integers(name, QuantizedTensor(f"{name}/integers", "minimum", "maximum", grid))
    return emission, next(node for node in graph.nodes if node.op == "ConcatV2")


def test_integers_of_several_scales_are_never_concatenated():
    emit_on_integers(*with_integers(a=3.0, b=3.0))
    with pytest.raises(QuantizationError, match="several scales"):
        emit_on_integers(*with_integers(a=3.0, b=4.0))


def test_integers_that_end_too_early_are_never_read():
    emission, _ = with_integers(a=3.0, b=3.0)
    assert emission.quantized("a", grid_of(CONVOLVED, (0.0, 3.0)), (0.0, 3.0)).values == "a/integers"
    for limits in ((0.0, 4.0), (-1.0, 3.0)):
        with pytest.raises(QuantizationError, match="one reader takes"):
            emission.quantized("a", grid_of(CONVOLVED, limits), limits)
