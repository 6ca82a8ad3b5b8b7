"""What is found in a graph: operators, what follows them, and what stays integer between them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.operators.discovery import find_operators, kernel_weight
from tests.tf.quantizing import graph_of, operators_in, quantized, random, source_of
from tests.tf.small_models import (
    WithControlFlow,
    convolutions,
    image_data,
    randomized,
    transformer_block,
)

WEIGHT = random(16, 8)


def found_in(function, shape=(None, 16)):
    return find_operators(graph_of(source_of(function, tf.TensorSpec(shape, name="x"))))


def test_an_operator_without_epilogue_ends_with_its_product():
    (operator,) = found_in(lambda x: tf.abs(x @ WEIGHT)).found.values()
    assert operator.epilogue.function is None
    assert operator.output == operator.node.name


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (tf.nn.relu, "Relu"),
        (tf.nn.relu6, "Relu6"),
        (lambda y: tf.nn.leaky_relu(y, 0.3), "LeakyRelu"),
        (tf.nn.elu, "Elu"),
        (tf.nn.tanh, "Tanh"),
        (tf.nn.sigmoid, "Sigmoid"),
        (lambda y: tf.nn.gelu(y, approximate=False), "GeluExact"),
        (lambda y: tf.nn.gelu(y, approximate=True), "GeluApproximate"),
        (lambda y: keras.activations.gelu(y, approximate=False), "GeluExact"),
        (lambda y: y * (0.5 * (1 + tf.math.erf(y / np.float32(np.sqrt(2))))), "GeluExact"),
    ],
)
def test_activation_functions_belong_to_the_product_and_stay_right(function, kind):
    bias = random(8, seed=1)
    source = source_of(lambda x: function(x @ WEIGHT / 4 + bias), tf.TensorSpec([None, 16], name="x"))
    (operator,) = find_operators(graph_of(source)).found.values()
    assert operator.epilogue.function.kind == kind
    data = random(64, 16, seed=2)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30
    assert operators_in(model).count("_QuantizedMatMul") == 1
    assert not {"Relu", "Elu", "Erf", "Erfc", "Tanh"} & set(operators_in(model))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda y: 0.4 * y * tf.math.erfc(-y * np.float32(2**-0.5)), id="another factor"),
        pytest.param(lambda y: 0.5 * y * tf.math.erfc(-y * np.float32(2**-0.5)) + y, id="read by another"),
    ],
)
def test_what_only_looks_like_gelu_is_left_alone(function):
    (operator,) = found_in(lambda x: function(x @ WEIGHT)).found.values()
    assert operator.epilogue.function is None


def test_factors_and_shifts_of_features_go_into_weight_and_bias():
    multiplier, first, second = random(8, seed=1), random(8, seed=2), random(8, seed=3)
    source = source_of(lambda x: (x @ WEIGHT + first) * multiplier - second, tf.TensorSpec([None, 16], name="x"))
    graph = graph_of(source)
    (operator,) = find_operators(graph).found.values()
    np.testing.assert_allclose(operator.epilogue.bias, first * multiplier - second, rtol=1e-6)
    np.testing.assert_allclose(kernel_weight(graph, operator), WEIGHT * multiplier, rtol=1e-6)


def test_an_addend_that_differs_by_row_is_no_bias():
    rows = random(4, 8, seed=1)
    (operator,) = found_in(lambda x: x @ WEIGHT + rows, (4, 16)).found.values()
    assert operator.epilogue.bias is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 8)])
def test_an_addend_that_adds_a_dimension_is_no_bias(shape):
    addend = random(*shape, seed=1)
    source = source_of(lambda x: x @ WEIGHT + addend, tf.TensorSpec((None, 16), name="x"))
    (operator,) = find_operators(graph_of(source)).found.values()
    assert operator.epilogue.bias is None
    assert quantized(source, random(8, 16)).callable(random(8, 16)).shape == (1, 8, 8)


@pytest.mark.parametrize("padding", [1, 0])
def test_a_pointwise_convolution_may_be_padded(padding):
    filters, bias, around = random(1, 1, 4, 8), random(8, seed=1), [padding, padding]
    source = source_of(
        lambda x: tf.nn.conv2d(x, filters, 1, [[0, 0], around, around, [0, 0]]) + bias,
        tf.TensorSpec((None, 6, 6, 4), name="x"),
    )
    data = random(8, 6, 6, 4)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30
    assert ("_QuantizedMatMul" in operators_in(model)) == (padding == 0)


def test_an_operator_reads_what_the_one_before_makes_in_its_own_shape():
    """Not the matrix inside it, where only a Reshape follows the product."""

    def network(x):
        for width in (8, 16, 8):
            matrix = tf.reshape(x, [-1, x.shape[-1]]) @ random(x.shape[-1], width)
            x = tf.reshape(matrix, [tf.shape(x)[0], tf.shape(x)[1], width])
        return x

    source, data = source_of(network, tf.TensorSpec((None, None, 16), name="x")), random(6, 5, 16)
    first, second, third = find_operators(graph_of(source)).found.values()
    assert [second.input, third.input] == [first.output, second.output]
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30


def test_a_batch_norm_of_tensorflow_1_is_part_of_the_convolution():
    filters, scale, offset, mean = random(3, 3, 4, 8), *(random(8, seed=seed) for seed in (1, 2, 3))
    variance = np.abs(random(8, seed=4)) + 1

    def network(x):
        y = tf.nn.conv2d(x, filters, 1, "SAME")
        y, *_ = tf.compat.v1.nn.fused_batch_norm(y, scale, offset, mean, variance, is_training=False)
        return tf.nn.relu(y)

    source = source_of(network, tf.TensorSpec([None, 8, 8, 4], name="x"))
    data = random(8, 8, 8, 4)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30
    assert "FusedBatchNormV3" not in operators_in(model)


def test_biases_over_heads_and_reshapes_belong_to_the_products_of_a_transformer():
    found = find_operators(graph_of(load_source(transformer_block()))).found
    products = [each for each in found.values() if each.type != "GatherV2"]
    assert len(products) == 7
    assert all(each.epilogue.bias is not None for each in products)
    queries = [name for name in found if "query" in name or "key" in name or "value" in name]
    assert len({found[name].input for name in queries}) == 1


def test_products_without_integer_kernel_are_listed_with_the_reason():
    result = found_in(lambda x: tf.matmul(x, x, transpose_b=True) @ tf.ones((4, 2)), (4, 16))
    assert len(result.found) == 1
    assert [reason for _, reason in result.skipped.values()] == [
        "multiplies two activations, for which TensorFlow has no integer kernel"
    ]


def test_products_in_control_flow_are_found_in_graphs_of_their_own():
    found = Analysis(load_source(WithControlFlow()))
    assert not found.skipped
    assert [name.split("/")[:2] for name in found.operators] == [
        ["matmul"],
        ["while", "body"],
        ["cond", "then_branch"],
    ]
    assert len(set(found.graph_of.values())) == 3


def test_transposed_weights_and_batched_products_are_right():
    weight, data = random(8, 16), random(6, 5, 16)
    source = source_of(
        lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=weight, adj_y=True), tf.TensorSpec([None, None, 16], name="x")
    )
    model = quantized(source, data)
    actual = model.callable(data).numpy()
    assert actual.shape == (6, 5, 8)
    assert signal_to_noise_db(data @ weight.T, actual) > 35


def chained(pad=False, function="relu", channels=8):
    """Convolutions with pooling and concatenation between them."""
    inputs = keras.Input((12, 12, 3), name="x")
    x = layers.Conv2D(channels, 3, activation=function)(inputs)
    x = layers.ZeroPadding2D(1)(x) if pad else x
    x = layers.MaxPooling2D(2)(x)
    x = layers.Concatenate()([layers.Conv2D(8, 3, activation=function)(x), layers.Conv2D(8, 3)(x)])
    return randomized(keras.Model(inputs, layers.Conv2D(4, 3)(x)))


@pytest.mark.parametrize("function", ["relu", "relu6", None])
@pytest.mark.parametrize("pad", [False, True])
def test_pooling_padding_and_concatenation_work_on_integers(function, pad):
    source, data = load_source(chained(pad, function)), random(16, 12, 12, 3)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 27
    operators = operators_in(model)
    assert (operators.count("QuantizeV2"), operators.count("Dequantize")) == (1, 0)
    assert operators.count("QuantizedMaxPool") == 1


def test_recipes_let_pooling_and_concatenation_work_in_float():
    source, data = load_source(chained()), random(16, 12, 12, 3)
    model = quantized(source, data, propagate_max_pooling=False, propagate_concat=False)
    operators = operators_in(model)
    assert operators.count("MaxPool") == 1
    assert operators.count("QuantizeV2") == 3


def test_a_concatenation_with_a_float_tensor_works_in_float():
    inputs = keras.Input((8, 8, 3), name="x")
    x = layers.Concatenate()([layers.Conv2D(8, 3, padding="same")(inputs), inputs])
    source = load_source(randomized(keras.Model(inputs, layers.Conv2D(4, 3)(x))))
    data = random(8, 8, 8, 3)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30
    assert operators_in(model).count("QuantizeV2") == 2


def test_a_depthwise_convolution_is_decided_with_its_neighbours_or_stays():
    inputs = keras.Input((8, 8, 4), name="x")
    x = layers.DepthwiseConv2D(3, name="alone")(inputs)
    x = layers.Conv2D(16, 1, activation="relu", name="grow")(x)
    x = layers.DepthwiseConv2D(3, activation="relu", name="between")(x)
    model = randomized(keras.Model(inputs, layers.Conv2D(4, 1, name="shrink")(x)))
    analysis = Analysis(load_source(model))
    assert [name.split("/")[1] for name in analysis.skipped] == ["alone_1"]
    assert [[name.split("/")[1] for name in group] for group in analysis.groups] == [
        ["grow_1", "between_1", "shrink_1"]
    ]


def test_the_names_of_convolutions_are_those_of_their_layers():
    names = list(find_operators(graph_of(load_source(convolutions()))).found)
    assert names[0] == "convolutions_1/conv2d_1/convolution" or "conv2d" in names[0]
    assert not any("batchnorm" in name for name in names)


def test_a_residual_network_keeps_its_accuracy():
    source, data = load_source(convolutions()), image_data(16)
    model = quantized(source, data)
    assert signal_to_noise_db(Candidate(source).callable(data).numpy(), model.callable(data).numpy()) > 30
