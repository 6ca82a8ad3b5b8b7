"""What is written loads everywhere TensorFlow is, and is never written in part."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.tf_ext.graph.graph_model import GraphModel, SignatureGraph, TensorDescription, placeholder
from inc_autotune.tf_ext.model.saved_model import EXTRA, write_saved_model
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf import small_models as small

X = small.chain_data()
SCALE = np.full((8, 1), 2, np.float32)


@pytest.fixture(scope="module")
def module_model(tmp_path_factory: pytest.TempPathFactory) -> SignatureModel:
    return SignatureModel(load_source(small.two_signatures(tmp_path_factory.mktemp("two") / "model")))


def integer_weights() -> GraphModel:
    """A product with an int8 weight that is dequantized by hand."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 64], name="x")
        weight = tf.compat.v1.placeholder(tf.int8, [64, 64], name="weight")
        tf.identity(x @ tf.cast(weight, tf.float32) * 0.5, name="y")
    value = np.random.default_rng(0).integers(-127, 128, (64, 64)).astype(np.int8)
    inputs = (TensorDescription("x", tf.float32, (None, 64), "x:0"),)
    outputs = (TensorDescription("y", tf.float32, (None, 64), "y:0"),)
    signature = SignatureGraph("serving_default", graph.as_graph_def(), {"weight": value}, inputs, outputs, True, {})
    return GraphModel({"serving_default": signature})


def test_signatures_keep_names_dtypes_and_shapes(module_model: SignatureModel, tmp_path: Path) -> None:
    write_saved_model(module_model, tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    assert sorted(loaded.signatures) == ["embed", "serving_default"]
    main = loaded.signatures["serving_default"]
    assert main.structured_input_signature[1] == {
        "value": tf.TensorSpec([None, 32], tf.float32, name="value"),
        "scale": tf.TensorSpec([None, 1], tf.float32, name="scale"),
    }
    assert {name: spec.shape.as_list() for name, spec in main.structured_outputs.items()} == {
        "hidden": [None, 64],
        "logits": [None, 5],
    }
    expected = module_model.signatures["serving_default"](value=X, scale=SCALE)
    for name, value in main(value=tf.constant(X), scale=tf.constant(SCALE)).items():
        assert np.array_equal(value, expected[name])


FRESH = """
import sys
import numpy as np, tensorflow as tf
loaded, x = tf.saved_model.load(sys.argv[1] + "/model"), np.load(sys.argv[1] + "/x.npy")
scale = np.full((8, 1), 2, np.float32)
np.save(sys.argv[1] + "/y.npy", loaded.signatures["serving_default"](value=x, scale=scale)["logits"])
np.save(sys.argv[1] + "/served.npy", loaded.serve({"value": x, "scale": scale})["logits"])
assert not any(name.startswith("inc_autotune") for name in sys.modules)
"""


def test_it_loads_in_a_fresh_process_without_this_library(module_model: SignatureModel, tmp_path: Path) -> None:
    write_saved_model(module_model, tmp_path / "model")
    np.save(tmp_path / "x.npy", X)
    subprocess.run([sys.executable, "-I", "-c", FRESH, tmp_path], check=True, capture_output=True, cwd=tmp_path)
    expected = module_model(value=X, scale=SCALE)["logits"]
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "served.npy"), expected)


def test_it_loads_in_a_keras_layer_and_in_a_session(tmp_path: Path) -> None:
    model = SignatureModel(load_source(small.dense_chain()))
    write_saved_model(model, tmp_path / "model")
    expected = model(X)
    layer = keras.layers.TFSMLayer(tmp_path / "model")
    assert np.array_equal(layer(X), expected)
    named = keras.layers.TFSMLayer(tmp_path / "model", call_endpoint="serving_default")
    assert np.array_equal(named(X)["output_0"], expected)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model"))
        signature = meta.signature_def["serving_default"]
        found = session.run(signature.outputs["output_0"].name, {signature.inputs["x"].name: X})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_integer_weights_are_integer_variables(tmp_path: Path) -> None:
    model = SignatureModel(integer_weights())
    write_saved_model(model, tmp_path / "model")
    x = np.ones((2, 64), np.float32)
    loaded = tf.saved_model.load(tmp_path / "model")
    assert np.array_equal(loaded.serve(x), model(x))
    assert [(each.dtype, each.shape) for each in loaded.weights] == [(tf.int8, [64, 64])]
    assert (tmp_path / "model/saved_model.pb").stat().st_size < 20_000


def test_a_model_comes_back_as_it_was(module_model: SignatureModel, tmp_path: Path) -> None:
    write_saved_model(module_model, tmp_path / "model")
    source = load_source(tmp_path / "model")
    assert list(source.signatures) == ["serving_default", "embed"]
    again = source.signatures["serving_default"]
    assert again.ordered
    assert [each.name for each in again.inputs] == ["value", "scale"]
    assert np.array_equal(SignatureModel(source)(X, SCALE)["logits"], module_model(X, SCALE)["logits"])


def test_a_list_of_inputs_is_taken_as_keras_takes_it(module_model: SignatureModel) -> None:
    assert np.array_equal(module_model([X, SCALE])["logits"], module_model(X, SCALE)["logits"])
    with pytest.raises(DataError, match="missing: 'scale'"):
        module_model([X])


def test_an_input_that_nothing_reads_and_one_that_is_returned(tmp_path: Path) -> None:
    def body(x: Any, flag: Any) -> dict[str, Any]:
        return {"same": x, "doubled": x * 2}

    specs = [tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], tf.bool, name="flag")]
    function = tf.function(body, input_signature=specs, autograph=False).get_concrete_function()
    write_saved_model(SignatureModel(load_source(function)), tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    assert sorted(loaded.structured_input_signature[1]) == ["flag", "x"]
    x = np.ones((2, 4), np.float32)
    found = loaded(x=tf.constant(x), flag=tf.constant(True))
    assert np.array_equal(found["same"], x)
    assert np.array_equal(found["doubled"], x * 2)


def test_both_names_of_a_signature_of_keras_are_written_once(tmp_path: Path) -> None:
    small.dense_chain().export(tmp_path / "keras", verbose=False)
    source = load_source(tmp_path / "keras")
    assert list(source.signatures) == ["serving_default"]
    assert source.signatures["serving_default"].aliases == ("serve",)
    write_saved_model(SignatureModel(source), tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    assert sorted(loaded.signatures) == ["serve", "serving_default"]
    assert np.array_equal(loaded.signatures["serve"](x=X)["output_0"], loaded.serve(X))


def test_names_that_are_no_python_words(tmp_path: Path) -> None:
    specs = [tf.TensorSpec([None, 3], name=name) for name in ("b-2", "a/1", "Z")]
    function = tf.function(lambda *x: {"y-1": x[0] + 2 * x[1] + 3 * x[2], "x/0": x[1]}, input_signature=specs)
    tf.saved_model.save(tf.Module(), tmp_path / "odd", {"my-signature/1": function})
    source = load_source(tmp_path / "odd")
    write_saved_model(SignatureModel(source), tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model").signatures["my-signature/1"]
    values = {name: tf.fill([1, 3], value) for name, value in (("b-2", 1.0), ("a/1", 10.0), ("Z", 100.0))}
    results = loaded(**values)
    assert results["y-1"][0, 0] == 321
    assert results["x/0"][0, 0] == 10


def test_control_flow_survives(tmp_path: Path) -> None:
    module = small.WithControlFlow()
    write_saved_model(SignatureModel(load_source(module)), tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(X), module(X), rtol=1e-4, atol=1e-5)


def test_an_older_one_is_replaced_and_keeps_nothing(module_model: SignatureModel, tmp_path: Path) -> None:
    write_saved_model(module_model, tmp_path / "deep/model", {"recipe.yaml": b"old", "arrays.npz": b"old"})
    write_saved_model(module_model, tmp_path / "deep/model", {"recipe.yaml": b"new"})
    assert (tmp_path / "deep/model" / EXTRA / "recipe.yaml").read_bytes() == b"new"
    assert not (tmp_path / "deep/model" / EXTRA / "arrays.npz").exists()
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["model"]


def test_an_empty_folder_is_filled(module_model: SignatureModel, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_saved_model(module_model, tmp_path / "model")
    assert tf.saved_model.contains_saved_model(tmp_path / "model")


def test_what_somebody_else_wrote_is_never_replaced(module_model: SignatureModel, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("text")
    small.two_signatures(tmp_path / "fp32")
    for name in ("notes", "file", "fp32"):
        with pytest.raises(ArgumentError, match=rf"directory='.*{name}'.*new"):
            write_saved_model(module_model, tmp_path / name)
    assert (tmp_path / "notes/thesis.txt").read_text() == "years of work"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "fp32", "notes"]


def test_places_where_nothing_can_be_written(module_model: SignatureModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (None, 5, tmp_path / "file" / "below", Path("/proc/no/model")):
        with pytest.raises(ArgumentError, match="directory="):
            write_saved_model(module_model, place)  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failure_leaves_the_old_one(
    module_model: SignatureModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saved_model(module_model, tmp_path / "model", {"recipe.yaml": b"old"})

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fails)
        with pytest.raises(ArgumentError, match="cannot be written: disk full"):
            write_saved_model(module_model, tmp_path / "model")
    assert (tmp_path / "model" / EXTRA / "recipe.yaml").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_calls_by_name_by_position_and_wrong_ones(module_model: SignatureModel) -> None:
    embed, main = module_model.signatures["embed"], module_model.signatures["serving_default"]
    for call in (lambda: embed(X), lambda: embed(value=X), lambda: embed({"value": X}), lambda: embed(tf.constant(X))):
        assert np.array_equal(call()["output_0"], embed(X)["output_0"])
    assert np.array_equal(main(X, scale=SCALE)["logits"], main(value=X, scale=SCALE)["logits"])
    for call, words in (
        (lambda: main(X), "missing: 'scale'"),
        (lambda: main(X, SCALE, SCALE), "3 positional"),
        (lambda: main(X, value=X, scale=SCALE), "given twice: 'value'"),
        (lambda: main(values=X, scale=SCALE), "unknown: 'values'.*Did you mean 'value'"),
    ):
        with pytest.raises(DataError, match=words):
            call()


def test_a_signature_outlives_its_model() -> None:
    signature = SignatureModel(load_source(small.dense_chain())).signatures["serving_default"]
    assert signature(x=X)["output_0"].shape == (8, 5)


def test_positions_are_refused_where_the_order_is_unknown(module_model: SignatureModel) -> None:
    source = load_source(small.TwoLayers())
    graph = replace(source.signatures["serving_default"], ordered=False)
    model = SignatureModel(GraphModel({"serving_default": graph}))
    assert np.array_equal(model(value=X, scale=SCALE)["hidden"], module_model(X, SCALE)["hidden"])
    with pytest.raises(DataError, match="give them by name"):
        model(X, SCALE)


def test_a_weight_is_a_placeholder_of_the_graph() -> None:
    graph_def = GraphDef()
    placeholder(graph_def, "weight", tf.int8, (3, 4))
    node = graph_def.node[0]
    assert (node.op, node.attr["dtype"].type, tf.TensorShape(node.attr["shape"].shape)) == ("Placeholder", 6, [3, 4])
