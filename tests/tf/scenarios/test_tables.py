"""Models that look values up: their tables are kept, and what stands behind or before them is tuned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from tests.tf.quantizing import random
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

WORDS = ["alpha", "beta", "gamma", "delta"]
TEXT = np.array(WORDS * 16)[np.random.default_rng(0).permutation(64)].reshape(32, 2)
NUMBERS = np.random.default_rng(1).integers(0, 4, (32, 2)).astype(np.int64)


def network(lookup: Any, dtype: str) -> Any:
    inputs = keras.Input((2,), dtype=dtype, name="given")
    x = layers.Flatten()(layers.Embedding(8, 16)(lookup(inputs)))
    return randomized(keras.Model(inputs, layers.Dense(4)(layers.Dense(32, activation="relu")(x))))


class Tables(tf.Module):
    """A table that turns words into numbers, and one that names what a product found."""

    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__()
        if kind == "a file":
            path = directory / "words.txt"
            path.write_text("\n".join(WORDS))
            whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            pairs: Any = tf.lookup.TextFileInitializer(str(path), tf.string, whole, tf.int64, line)
        else:
            pairs = tf.lookup.KeyValueTensorInitializer(WORDS, tf.range(4, dtype=tf.int64))
        if kind == "a table that can change":
            self.numbers: Any = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
            self.numbers.insert(tf.constant(WORDS), tf.range(4, dtype=tf.int64))
        else:
            self.numbers = tf.lookup.StaticHashTable(pairs, 0)
        names = tf.lookup.KeyValueTensorInitializer(tf.range(4, dtype=tf.int64), WORDS)
        self.names = tf.lookup.StaticHashTable(names, "?")
        self.embedding, self.weight = tf.Variable(random(4, 16)), tf.Variable(random(32, 4))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.string, name="words")], autograph=False)
    def __call__(self, words: Any) -> dict[str, Any]:
        found = tf.reshape(tf.gather(self.embedding, self.numbers.lookup(words)), [-1, 32]) @ self.weight
        return {"scores": found, "name": self.names.lookup(tf.argmax(found, -1))}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int64, name="numbers")], autograph=False)
    def count(self, numbers: Any) -> Any:
        return tf.reshape(tf.gather(self.embedding, numbers), [-1, 32]) @ self.weight


def int8(tuned: Any) -> int:
    return sum(each.dtype == "int8" for each in tuned.tuning_result.operators)


@pytest.mark.parametrize("form", ["in memory", "exported"])
@pytest.mark.parametrize(
    ("lookup", "dtype", "data"),
    [
        pytest.param(lambda: layers.IntegerLookup(vocabulary=[0, 1, 2, 3]), "int64", NUMBERS, id="numbers"),
        pytest.param(lambda: layers.StringLookup(vocabulary=WORDS), "string", TEXT, id="words"),
        pytest.param(lambda: layers.StringLookup(vocabulary=WORDS), "string", TEXT.astype(object), id="objects"),
        pytest.param(lambda: layers.StringLookup(vocabulary=WORDS), "string", TEXT.astype("S"), id="bytes"),
        pytest.param(
            lambda: layers.StringLookup(vocabulary=WORDS),
            "string",
            tf.data.Dataset.from_tensor_slices(TEXT).batch(8),
            id="dataset",
        ),
        pytest.param(lambda: layers.Hashing(8), "string", TEXT, id="hashed"),
    ],
)
def test_what_stands_behind_a_lookup_layer_is_tuned(
    lookup: Any, dtype: str, data: Any, form: str, tmp_path: Path
) -> None:
    model: Any = network(lookup(), dtype)
    given = tf.constant(NUMBERS[:4]) if dtype == "int64" else tf.constant(TEXT[:4])
    expected = model(given).numpy()
    if form == "exported":
        model.export(tmp_path / "fp32", verbose=False)
        model = tmp_path / "fp32"
    tuned = tf_ext.autotune(model, data, progress=False)
    assert int8(tuned) == 2
    tf_ext.save(tuned, tmp_path / "int8")
    found = tf.saved_model.load(str(tmp_path / "int8")).signatures["serving_default"](given=given)["output_0"]
    assert signal_to_noise_db(expected, found.numpy()) > 30


FRESH = """
import sys
import tensorflow as tf
words = [["beta", "delta"], ["alpha", "nothing"]]
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1]).signature_def["serving_default"]
    by_session = session.run(signature.outputs["name"].name, {signature.inputs["words"].name: words})
loaded = tf.saved_model.load(sys.argv[1])
by_function = loaded.signatures["serving_default"](words=tf.constant(words))["name"].numpy()
for names in (by_session, by_function):
    print(" ".join(each.decode() for each in names))
"""


@pytest.mark.parametrize("kind", ["values", "a file", "a table that can change"])
def test_tables_are_saved_with_the_model(kind: str, tmp_path: Path) -> None:
    module = Tables(kind, tmp_path)
    signatures = {"serving_default": module.__call__, "count": module.count}
    tf.saved_model.save(module, str(tmp_path / "fp32"), signatures)
    tuned = tf_ext.autotune(tmp_path / "fp32", {"serving_default": TEXT, "count": NUMBERS}, progress=False)
    assert int8(tuned) == 2
    tf_ext.save(tuned, tmp_path / "int8")
    (tmp_path / "words.txt").unlink(missing_ok=True)
    command = [sys.executable, "-c", FRESH, str(tmp_path / "int8")]
    by_session, by_function = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = module(tf.constant([["beta", "delta"], ["alpha", "nothing"]]))["name"].numpy()
    assert by_session.split() == by_function.split() == [each.decode() for each in expected]


def test_a_recipe_is_applied_to_a_model_with_tables(tmp_path: Path) -> None:
    module = Tables("values", tmp_path)
    tuned = tf_ext.autotune(module, TEXT, progress=False)
    again = tf_ext.apply_recipe(module, tuned.recipe)
    found, expected = (tf_ext.convert(each)(TEXT[:4]) for each in (again, tuned))
    assert np.array_equal(found["scores"], expected["scores"])
    assert np.array_equal(found["name"], expected["name"])


def test_a_table_of_nobody_is_refused_and_the_remedy_works(tmp_path: Path) -> None:
    module = Tables("values", tmp_path)
    with pytest.raises(ModelError, match=r"nothing that was given holds them.*tf\.Module that has the table"):
        tf_ext.autotune(module.__call__.get_concrete_function(), TEXT, progress=False)
    assert int8(tf_ext.autotune(module, TEXT, progress=False)) == 1
