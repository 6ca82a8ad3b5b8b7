"""Models that cannot be tuned are refused with a message that says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError, MissingDependencyError, ModelError
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.target.version import check_version
from tests.tf import small_models as small

FEATURES = tf.TensorSpec([None, 4], name="x")


def refused(model: Any, *words: str, error: type[Exception] = ModelError, signatures: Any = None) -> None:
    with pytest.raises(error) as caught:
        load_source(model, signatures)
    for word in words:
        assert word in str(caught.value)


def function(body: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(body, input_signature=specs, autograph=False)


@pytest.mark.parametrize("model", [None, 3, ["model"], object(), np.ones(3), layers.Dense(3), tf.Module()])
def test_something_else_than_a_model(model: Any) -> None:
    refused(model, "not a model of TensorFlow", "Allowed:", "SavedModel", error=ArgumentError)


def test_a_missing_path(tmp_path: Path) -> None:
    refused(tmp_path / "no", "no such file or directory", "/no'", error=ArgumentError)


def test_directories_that_are_no_saved_model(tmp_path: Path) -> None:
    refused(tmp_path, "is no SavedModel", "saved_model.pb")
    small.two_signatures(tmp_path / "served" / "7")
    refused(tmp_path / "served", "is no SavedModel", "Did you mean", "served/7")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.txt", b"text", ["is no model of TensorFlow"]),
        ("model.onnx", b"text", ["is no model of TensorFlow"]),
        ("model.pb", b"text", ["holds no GraphDef"]),
        ("model.pb", b"", ["holds no GraphDef"]),
        ("model.keras", b"text", ["Keras cannot load it", "custom_objects"]),
        ("saved_model.pb", b"\xff\xff", ["TensorFlow cannot load this SavedModel", "give the object"]),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path if name == "saved_model.pb" else tmp_path / name, str(tmp_path), *words)


def test_a_file_of_a_saved_model(tmp_path: Path) -> None:
    path = small.two_signatures(tmp_path / "model")
    refused(path / "saved_model.pb", "Give its directory", error=ArgumentError)


def test_a_saved_model_without_signatures(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), tmp_path / "model")
    refused(tmp_path / "model", "has no signature", "tf.saved_model.save")


def test_a_function_of_unknown_shapes() -> None:
    refused(tf.function(lambda x: x), "input_signature", "get_concrete_function", error=ArgumentError)


def test_keras_models_without_weights() -> None:
    refused(keras.Sequential([layers.Dense(3)]), "no weights yet", "Call it once")


class Untraceable(keras.Model):
    def call(self, x: Any) -> Any:
        return x


def test_a_keras_subclass_that_was_never_called() -> None:
    model = Untraceable()
    model.build((None, 3))
    refused(model, "Keras cannot export it", "Call it once on data")


def dropout(x: Any) -> Any:
    return tf.nn.dropout(x, 0.5)


def batch_norm(x: Any) -> Any:
    ones = tf.ones(4)
    return tf.compat.v1.nn.fused_batch_norm(x[:, None, None], ones, ones, is_training=True)[0]


@pytest.mark.parametrize(("body", "word"), [(dropout, "is a dropout"), (batch_norm, "FusedBatchNormV3 that trains")])
def test_training_mode(body: Any, word: str) -> None:
    refused(function(body, FEATURES), "training mode", word, "training=False")


def test_a_keras_model_traced_in_training_mode() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5)])
    training = function(lambda x: model(x, training=True), FEATURES)
    refused(training, "writes variables", "training mode", "training=False")
    assert load_source(model)


def test_a_switch_for_training() -> None:
    switch = tf.TensorSpec([], tf.bool, name="training")
    refused(function(lambda x, on: tf.where(on, x * 2, x), FEATURES, switch), "switches training on")


def with_learning_phase(default: bool | None) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        if default is None:
            phase = tf.compat.v1.placeholder(tf.bool, [], name="keras_learning_phase")
        else:
            phase = tf.compat.v1.placeholder_with_default(default, [], name="keras_learning_phase")
        tf.where(phase, x * 2, x, name="y")
    return graph.as_graph_def()


def test_a_learning_phase_of_tensorflow_1() -> None:
    refused(with_learning_phase(None), "'keras_learning_phase'", "switches training on")
    ends = {"serving_default": {"inputs": ["x"], "outputs": ["y"]}}
    refused(with_learning_phase(None), "needs keras_learning_phase", "frozen to False", signatures=ends)
    graph = load_source(with_learning_phase(False)).signatures["serving_default"]
    assert "PlaceholderWithDefault" not in {node.op for node in graph.graph_def.node}


def test_inputs_that_are_resources() -> None:
    spec = tf.TensorSpec([], tf.resource, name="x")
    words = ["input 'x' of signature 'serving_default' is a resource", "signatures="]
    refused(function(lambda x: tf.ones(3), spec), *words)


@pytest.mark.parametrize(
    ("spec", "dense", "kind"),
    [
        (tf.RaggedTensorSpec([None, None], tf.float32), lambda x: x.to_tensor(), "RaggedTensor"),
        (tf.SparseTensorSpec([None, 4], tf.float32), tf.sparse.to_dense, "SparseTensor"),
    ],
)
def test_ragged_and_sparse_inputs(tmp_path: Path, spec: Any, dense: Any, kind: str) -> None:
    body = function(lambda x: tf.nn.relu(dense(x)), spec)
    refused(body, kind, "dense tensors", "to_tensor()")
    tf.saved_model.save(tf.Module(), tmp_path / "model", body.get_concrete_function())
    refused(tmp_path / "model", "parts of a ragged or sparse tensor", "dense tensors")


def test_sparse_inputs_of_keras() -> None:
    inputs = keras.Input((4,), sparse=True, name="x")
    refused(keras.Model(inputs, layers.Dense(3)(inputs)), "'x' is sparse")


class Lookup(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2]), tf.constant([3, 4]))
        self.table = tf.lookup.StaticHashTable(pairs, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")], autograph=False)
    def __call__(self, x: Any) -> Any:
        return self.table.lookup(x)


def test_tables() -> None:
    module = Lookup()
    refused(module.__call__, "resources that are no variables", "LookupTableFindV2", "Tables")
    with pytest.raises(ModelError, match="nothing to quantize"):
        tf_ext.autotune(module, np.ones(8, np.int32), progress=False)


def test_quantized_already() -> None:
    fake = function(lambda x: tf.quantization.fake_quant_with_min_max_args(x), FEATURES)
    refused(fake, "quantized already", "FakeQuantWithMinMaxArgs", "fp32")


def test_what_convert_returned() -> None:
    refused(SignatureModel(load_source(small.dense_chain())), "quantized already", "convert()", "fp32")


@pytest.mark.parametrize("name", ["class", "self"])
def test_names_of_inputs_that_tensorflow_does_not_save(name: str) -> None:
    inputs = keras.Input((4,), name=name)
    refused(keras.Model(inputs, layers.Dense(3)(inputs)), f"input {name!r}", "Python word", "another name")


def test_missing_signatures(tmp_path: Path) -> None:
    path = small.two_signatures(tmp_path / "model")
    words = ["no signature 'serve'", "'embed'", "'serving_default'"]
    refused(path, *words, error=ArgumentError, signatures=["serve"])
    refused(path, "a dict is for a GraphDef", error=ArgumentError, signatures={"embed": {}})
    refused(path, "Give at least one", error=ArgumentError, signatures=[])
    for wrong in (5, [5], {5: {}}):
        refused(path, "signatures=", "a name or a list of names", error=ArgumentError, signatures=wrong)


@pytest.mark.parametrize(
    ("signatures", "words"),
    [
        (["embed"], ["a GraphDef has none"]),
        ({"s": {"input": ["x"]}}, ["unknown key 'input'"]),
        ({"s": {"inputs": ["xx"]}}, ["'xx'", "does not have"]),
        ({"s": {"outputs": ["probabilitie:0"]}}, ["Did you mean 'probabilities'"]),
        ({"s": {"outputs": "product"}}, ["a list or dict of names"]),
        ({"s": {"inputs": [5]}}, ["a list or dict of names"]),
        ({"s": {"inputs": {"x": 5}}}, ["a list or dict of names"]),
        ({"s": 5}, ["'inputs' and 'outputs'"]),
    ],
)
def test_wrong_ends_of_a_graph_def(signatures: Any, words: list[str]) -> None:
    refused(small.frozen_graph(), *words, error=ArgumentError, signatures=signatures)


def test_graph_defs_that_cannot_be_used() -> None:
    empty = tf.Graph()
    with empty.as_default():
        tf.constant(1.0, name="c")
    refused(empty.as_graph_def(), "no inputs", "signatures={'serving_default'")
    variable = tf.Graph()
    with variable.as_default():
        tf.compat.v1.get_variable("v", [3])
    refused(variable.as_graph_def(), "has variables", "Freeze it first")
    broken = small.frozen_graph()
    broken.node[-1].input[0] = "nowhere"
    refused(broken, "cannot import the graph", "nowhere")


def test_two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inc_autotune.tf_ext.model.freezing.LARGEST_GRAPH", 1000)
    refused(small.dense_chain(), "GiB", "Split the model")


@pytest.mark.parametrize("installed", ["2.15.1", "1.15", "unknown"])
def test_an_old_tensorflow(installed: str) -> None:
    with pytest.raises(MissingDependencyError, match=rf"TensorFlow {installed}.*2\.16 or newer.*pip install"):
        check_version(installed)
    check_version("2.16.0")
    check_version("2.22.0-rc1")


MISSING = """
import sys
sys.modules["tensorflow"] = None
try:
    import inc_autotune.tf_ext
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_a_missing_tensorflow_is_an_error_that_names_the_extra() -> None:
    message = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True).stdout
    assert message.startswith("MissingDependencyError")
    assert "inc-autotune[tf]" in message
