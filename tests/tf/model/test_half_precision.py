"""Models that compute in half precision: by Keras' policies, in loops, in functions, and what has to stay so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.model.half_precision import half_type
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

IMAGES = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
TEXTS = np.random.default_rng(1).integers(0, 20, (32, 6))
ROWS = np.random.default_rng(2).normal(size=(32, 16)).astype(np.float32)


def under(policy, build):
    """A model built with a policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        return build()
    finally:
        keras.config.set_dtype_policy(before)


def images():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8),
        ]
    )


def texts():
    layers = keras.layers
    recurrent = layers.LSTM(24, recurrent_initializer="glorot_uniform")  # the usual one cannot be made in bfloat16
    return keras.Sequential([keras.Input((6,)), layers.Embedding(20, 16), recurrent, layers.Dense(8)])


def distance(expected, actual):
    expected, actual = (np.asarray(each).astype(np.float64) for each in (expected, actual))
    return np.linalg.norm(expected - actual) / np.linalg.norm(expected)


def tune(model, data):
    return tf_ext.autotune(model, data, None, progress=False)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
@pytest.mark.parametrize(("build", "data"), [(images, IMAGES), (texts, TEXTS)])
def test_models_of_keras_are_tuned_and_keep_the_types_of_their_outputs(build, data, policy, tmp_path):
    model = under(policy, build)
    expected = model(data)
    tuned = tune(model, data)
    result, like = tuned.tuning_result, tune(build(), data).tuning_result
    assert [each.dtype for each in result.operators] == [each.dtype for each in like.operators]
    half = policy.removeprefix("mixed_")
    assert [f"computed in {half}" in note for note in result.notes].count(True) == 1
    quantized = tf_ext.convert(tuned)
    output = quantized(data)
    assert output.dtype == expected.dtype == half
    assert distance(expected, output) < 0.1
    tf_ext.save(tuned, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    (name,) = loaded.structured_input_signature[1]
    (again,) = loaded(**{name: tf.constant(data, loaded.structured_input_signature[1][name].dtype)}).values()
    np.testing.assert_array_equal(np.asarray(again).astype(np.float32), np.asarray(output).astype(np.float32))


def module(call, dtype=tf.float16, shape=(None, 16)):
    """A function of the rows and a weight, with an input of a half type."""
    weight = np.random.default_rng(3).normal(size=(16, 16)).astype(np.float32)

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(tf.cast(weight, dtype))

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name="x")])
        def __call__(self, x):
            return call(x, self.weight)

    return Model()


def in_a_loop(x, weight):
    return tf.while_loop(lambda step, _: step < 3, lambda step, y: (step + 1, tf.nn.tanh(y @ weight)), (0, x))[1]


def in_a_branch(x, weight):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ weight, lambda: -(x @ weight))


def beside_its_input(x, weight):
    return {"given": x, "product": x @ weight, "single": tf.cast(x @ weight, tf.float32)}


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("call", [in_a_loop, in_a_branch, beside_its_input])
def test_bodies_and_outputs_compute_the_same_in_float32(call, dtype):
    model = module(call, dtype)
    source = load_source(model)
    (signature,) = source.signatures.values()
    assert signature.half_type == dtype.name
    x = tf.cast(ROWS, dtype)
    expected = model(x)
    expected = expected if isinstance(expected, dict) else {"output_0": expected}
    actual = SignatureModel(source).signatures["serving_default"](x)
    assert {name: each.dtype for name, each in actual.items()} == {name: each.dtype for name, each in expected.items()}
    assert all(distance(expected[name], actual[name]) < 0.03 for name in expected)


def test_a_function_with_a_half_input_is_tuned():
    model = module(beside_its_input)
    tuned = tune(model, ROWS.astype(np.float16))
    assert [each.dtype for each in tuned.tuning_result.operators] == ["int8"] * 2


def test_weights_that_are_only_stored_in_half_precision_change_nothing():
    weight = tf.constant(np.eye(16), tf.float16)

    @tf.function(input_signature=[tf.TensorSpec((None, 16), tf.float32, name="x")])
    def stored(x):
        return x @ tf.cast(weight, tf.float32)

    (signature,) = load_source(stored.get_concrete_function()).signatures.values()
    assert signature.half_type is None


def read_bits(x, weight):
    return tf.cast(tf.bitcast(x @ weight, tf.int16), tf.float32)


def test_what_reads_the_bits_of_a_number_stays_and_the_reason_is_told():
    model = module(read_bits)
    assert half_type(model.__call__.get_concrete_function().graph.as_graph_def()) is None
    with pytest.raises(ModelError, match="its weight is float16, not float32"):
        tune(model, ROWS.astype(np.float16))


def test_training_asks_for_float32():
    model = under("mixed_bfloat16", images)
    with pytest.raises(ModelError, match=r"computes in bfloat16.*set_weights"):
        tf_ext.autotune(model, IMAGES, lambda each: 1.0, train_func=lambda student: None, progress=False)
