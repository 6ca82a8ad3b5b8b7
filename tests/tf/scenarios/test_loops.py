"""Products in loops, branches and functions: found, calibrated over all runs, integer, saved, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.graphs import Feed
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.calibration.collect import run_steps
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import check_files, random
from tests.tf.small_models import WIDTH, randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

SEQUENCES = random(24, 9, 12)
FEATURES = tf.TensorSpec([None, WIDTH], name="x")
MATRIX = random(WIDTH, WIDTH) / 6


def recurrent(layer: Any, length: int | None = 9) -> Any:
    inputs = keras.Input((length, 12), name="x")
    return randomized(keras.Model(inputs, layers.Dense(5)(layer(inputs))))


class Pair(layers.Layer):
    """A cell of one's own, with two states."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size, self.output_size = [16, 8], 16
        self.dense, self.other = layers.Dense(16, activation="tanh"), layers.Dense(8, activation="tanh")

    def build(self, shape: Any) -> None:
        self.dense.build((None, shape[-1] + 8))
        self.other.build((None, 16))

    def call(self, x: Any, states: Any) -> Any:
        first = self.dense(keras.ops.concatenate([x, states[1]], -1)) + states[0]
        return first, [first, self.other(first)]


def tuned_and_right(model: Any, data: Any, least: float, tmp_path: Path) -> Any:
    """The tuned model, whose forms agree in memory, on disk and from the recipe."""
    tuned = tf_ext.autotune(model, data, progress=False)
    want = SignatureModel(load_source(model))(data).numpy()
    got = tf_ext.convert(tuned)(data).numpy()
    assert signal_to_noise_db(want, got) > least
    check_files(tuned, model, data, tmp_path / "int8")
    return tuned


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        (lambda: layers.LSTM(16, return_sequences=True), 3),
        (lambda: layers.GRU(16), 3),
        (lambda: layers.GRU(16, reset_after=False, go_backwards=True), 4),
        (lambda: layers.SimpleRNN(16), 3),
        (lambda: layers.Bidirectional(layers.LSTM(8)), 5),
        (lambda: layers.RNN(Pair()), 3),
    ],
    ids=["LSTM", "GRU", "GRU before the reset", "SimpleRNN", "Bidirectional", "a cell of one's own"],
)
def test_recurrent_layers_are_integer_in_every_product(layer: Any, products: int, tmp_path: Path) -> None:
    tuned = tuned_and_right(recurrent(layer()), SEQUENCES, 25, tmp_path)
    operators = tuned.tuning_result.operators
    assert [each.approach for each in operators] == ["static"] * products


def test_sequences_of_any_length_and_masks_stay_right(tmp_path: Path) -> None:
    inputs = keras.Input((None, 12), name="x")
    model = keras.Model(inputs, layers.Dense(5)(layers.GRU(16)(layers.Masking()(inputs))))
    padded = SEQUENCES.copy()
    padded[::2, 5:] = 0
    tuned = tuned_and_right(model, padded, 25, tmp_path)
    shorter = padded[:3, :4]
    assert signal_to_noise_db(model(shorter).numpy(), tf_ext.convert(tuned)(shorter).numpy()) > 25


def test_layers_of_one_shape_have_weights_of_their_own(tmp_path: Path) -> None:
    """Kernels keep what they make of a weight: loops may share a function only where they share weights."""
    inputs = keras.Input((9, 12), name="x")
    tower = layers.LSTM(12, return_sequences=True)(layers.LSTM(12, return_sequences=True)(inputs))
    tuned_and_right(randomized(keras.Model(inputs, layers.LSTM(12)(tower))), SEQUENCES, 20, tmp_path)


def test_a_loop_computes_what_it_did_before_products_were_taken_out() -> None:
    for layer in (layers.LSTM(16, return_sequences=True), layers.GRU(16), layers.Bidirectional(layers.GRU(8))):
        model = recurrent(layer)
        source = load_source(model)
        np.testing.assert_allclose(SignatureModel(source)(SEQUENCES), model(SEQUENCES), rtol=1e-4, atol=1e-5)
        outside = [each.name for each in source.signatures["serving_default"].graph_def.node if each.op == "MatMul"]
        assert sum("while" in name for name in outside) == (2 if isinstance(layer, layers.Bidirectional) else 1)


def nested(x: Any) -> Any:
    def step(i: Any, y: Any) -> Any:
        inner = tf.while_loop(lambda j, _: j < i, lambda j, z: (j + 1, tf.tanh(z @ MATRIX)), (0, y))[1]
        return i + 1, tf.cond(tf.equal(i % 2, 0), lambda: inner @ MATRIX.T, lambda: inner)

    return tf.while_loop(lambda i, _: i < 4, step, (0, x))[1]


def chosen(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ MATRIX, lambda: tf.tanh(x) @ MATRIX.T)


def numbered(x: Any) -> Any:
    """TensorFlow freezes this as a branch of TensorFlow 1."""
    branches = [lambda: x @ MATRIX, lambda: tf.tanh(x) @ MATRIX.T]
    return tf.switch_case(tf.cast(tf.reduce_sum(x) > 0, tf.int32), branches)


@pytest.mark.parametrize(("function", "products"), [(nested, 2), (chosen, 2), (numbered, 1)])
def test_functions_inside_functions(function: Any, products: int, tmp_path: Path) -> None:
    model = tf.function(function, input_signature=[FEATURES], autograph=False)
    data = np.concatenate([random(16, WIDTH) + 0.1, random(16, WIDTH, seed=1) - 0.1])
    tuned = tf_ext.autotune(model, [data[:16], data[16:]], progress=False)
    kinds = [(each.approach, each.reason) for each in tuned.tuning_result.operators]
    assert [approach for approach, _ in kinds].count("static") >= products, kinds
    converted = tf_ext.convert(tuned)
    for batch in (data[:16], data[16:]):
        assert signal_to_noise_db(np.asarray(model(batch)), converted(batch).numpy()) > 20
    tf_ext.save(tuned, tmp_path / "int8")
    loaded = tf_ext.load(tmp_path / "int8")
    (saved,) = loaded.signatures["serving_default"](x=tf.constant(data[:16])).values()
    np.testing.assert_array_equal(saved, converted(data[:16]))


def test_every_step_counts_for_the_range() -> None:
    def grow(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, 2 * y + 0 * (y @ MATRIX)), (0, x))[1]

    source = load_source(tf.function(grow, input_signature=[FEATURES], autograph=False))
    (operator,) = Analysis(source).operators.values()
    rows = random(2, WIDTH)
    feed = Feed({"x": rows}, 2, frozenset())
    found = run_steps(source.signatures["serving_default"], [operator.input], feed)[operator.input]
    np.testing.assert_allclose(found, [rows, 2 * rows, 4 * rows])
