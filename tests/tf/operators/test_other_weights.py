"""Weights that no product or convolution reads are listed, with type, reason and share."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.operators.other_weights import find_weights
from tests.tf.quantizing import graph_of, random, source_of

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

WEIGHT = random(16, 8)
TABLE = random(40, 16)


def analysed(function, *specs):
    return Analysis(source_of(function, *specs))


def vectors(width=16):
    return tf.TensorSpec((None, width), name="x")


def test_a_table_that_is_looked_up_otherwise_than_by_rows_is_listed():
    def serve(ids):
        return tf.gather_nd(tf.constant(TABLE), tf.stack([ids, ids], -1))[:, None] @ tf.constant(WEIGHT[:1])

    found = analysed(serve, tf.TensorSpec((None,), tf.int32, name="ids"))
    ((name, (kind, reason)),) = found.skipped.items()
    assert (kind, reason) == ("GatherNd", "a table that is looked up stays as it is")
    assert list(found.weights[name].values()) == [TABLE.size]
    (product,) = found.operators
    assert list(found.weights[product].values()) == [8]


def test_weights_of_a_loop_belong_to_the_operators_in_it():
    def step(i, y):
        return i + 1, tf.tanh(y @ tf.constant(RECURRENT)) + tf.gather(tf.constant(TABLE), tf.fill(tf.shape(y)[:1], i))

    found = analysed(lambda x: tf.while_loop(lambda i, y: i < 3, step, (0, x))[1] @ WEIGHT, vectors())
    assert not found.skipped
    assert [each.type for each in found.operators.values()] == ["MatMul", "MatMul", "GatherV2"]
    sizes = [sum(found.weights[name].values()) for name in found.operators]
    assert sizes == [WEIGHT.size, RECURRENT.size, TABLE.size]


RECURRENT = random(16, 16)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.einsum("bi,ij->bj", x, tf.constant(WEIGHT)),
        lambda x: tf.constant(WEIGHT.T) @ tf.transpose(x),
        lambda x: tf.reshape(x, (-1, 1, 16)) @ tf.constant(random(1, 16, 8)),
        lambda x: tf.linalg.matmul(x, tf.constant(WEIGHT) * tf.norm(tf.constant(WEIGHT), axis=0)),
        lambda x: tf.nn.conv1d_transpose(tf.reshape(x, (-1, 4, 4)), random(3, 8, 4), (tf.shape(x)[0], 8, 8), 2),
        lambda x: tf.nn.conv3d(tf.reshape(x, (-1, 2, 2, 2, 2)), random(1, 1, 1, 2, 8), [1] * 5, "SAME"),
    ],
)
def test_the_weights_of_a_product_that_stays_as_it_is_are_known(function):
    graph = graph_of(source_of(lambda x: function(x), vectors()))
    found = Analysis(source_of(lambda x: function(x), vectors()))
    sizes = [size for own in found.weights.values() for size in own.values()]
    assert sum(sizes) >= 16, [node.op for node in graph.nodes]
    assert set(found.weights) <= {*found.operators, *found.skipped}


def test_offsets_and_factors_are_no_weights():
    graph = graph_of(source_of(lambda x: (x + random(4, 16)) * random(4, 16), tf.TensorSpec((4, 16), name="x")))
    assert find_weights(graph, ()).by_operator == {}


def test_two_products_with_one_weight_share_it():
    found = analysed(lambda x: tf.abs(x @ RECURRENT) @ RECURRENT, vectors())
    keys = {key for own in found.weights.values() for key in own}
    assert len(found.operators) == 2
    assert len(keys) == 1


def test_the_result_says_what_a_recurrent_model_keeps_in_fp32():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(40, 16)(inputs)
    model = keras.Model(inputs, layers.Dense(4)(layers.LSTM(16)(x)))
    data = [np.random.default_rng(0).integers(0, 40, (4, 6)).astype(np.int32) for _ in range(4)]
    result = tf_ext.autotune(model, data, progress=False).tuning_result
    assert sum(result.weight_shares.values()) == pytest.approx(1)
    assert result.weight_shares["int8"] < 0.8
    line = str(result).splitlines()[1]
    assert line.startswith("int8: ")
    assert "largest in fp32: " in line
