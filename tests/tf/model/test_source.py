"""Models of every form become graphs without variables that compute the same."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from inc_autotune.core.errors import ArgumentError
from inc_autotune.tf_ext.graph.graph_model import GraphModel
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf import small_models as small

X = small.chain_data()


def names(source: GraphModel, signature: str = "serving_default") -> tuple[list[str], list[str]]:
    graph = source.signatures[signature]
    return [each.name for each in graph.inputs], [each.name for each in graph.outputs]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_a_keras_model_in_every_form(tmp_path: Path) -> None:
    model = small.dense_chain()
    model.save(tmp_path / "chain.keras")
    model.export(tmp_path / "chain", verbose=False)
    expected = model(X)
    for form in (model, tmp_path / "chain.keras", str(tmp_path / "chain"), tf.saved_model.load(tmp_path / "chain")):
        source = load_source(form)
        assert list(source.signatures) == ["serving_default"]
        assert names(source) == (["x"], ["output_0"])
        assert source.signatures["serving_default"].inputs[0].shape == (None, 32)
        close(SignatureModel(source)(X), expected)
    assert load_source(str(tmp_path / "chain")).path == tmp_path / "chain"


def test_several_inputs_keep_their_order() -> None:
    model, data = small.transformer_block(), small.block_data()
    source = load_source(model)
    assert names(source)[0] == ["ids", "attention_mask"]
    close(SignatureModel(source)(data["ids"], data["attention_mask"]), model(data))


def test_a_saved_model_of_keras_keeps_the_order_too(tmp_path: Path) -> None:
    small.transformer_block(None).export(tmp_path / "block", verbose=False)
    graph = load_source(tmp_path / "block").signatures["serving_default"]
    assert graph.ordered
    assert [(each.name, each.shape) for each in graph.inputs] == [
        ("ids", (None, None)),
        ("attention_mask", (None, None)),
    ]


@pytest.mark.parametrize("outputs", ["list", "dict"])
def test_names_are_those_that_keras_itself_exports(tmp_path: Path, outputs: str) -> None:
    a, b = keras.Input((3,), name="nb"), keras.Input((3,), name="na")
    model = keras.Model({"nb": a, "na": b}, [a + b, a * b] if outputs == "list" else {"sum": a + b, "product": a * b})
    model.export(tmp_path / "model", verbose=False)
    ours, theirs = load_source(model), load_source(tmp_path / "model")
    assert [set(part) for part in names(ours)] == [set(part) for part in names(theirs)]
    values = {"na": X[:2, :3], "nb": X[2:4, :3]}
    found = SignatureModel(ours)(values)
    for name, value in SignatureModel(theirs)(values).items():
        close(found[name], value)


class Subclass(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dense(x) + (1000.0 if training else 0.0)


def test_a_keras_subclass() -> None:
    model = Subclass()
    expected = model(X)
    close(SignatureModel(load_source(model))(X), expected)


def test_batch_norm_is_folded_and_the_model_stays_as_it_is() -> None:
    model, data = small.convolutions(), small.image_data()
    before = [weight.copy() for weight in model.get_weights()]
    expected = model(data)
    source = load_source(model)
    operators = [node.op for node in source.signatures["serving_default"].graph_def.node]
    assert operators.count("Conv2D") == 5
    assert not {"Rsqrt", "FusedBatchNormV3"} & set(operators)
    close(SignatureModel(source)(data), expected)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_a_module_and_its_functions() -> None:
    module, scale = small.TwoLayers(), np.full((8, 1), 2, np.float32)
    expected = module(X, scale)
    concrete = module.__call__.get_concrete_function()
    for form in (module, module.__call__, concrete):
        source = load_source(form)
        assert names(source) == (["value", "scale"], ["hidden", "logits"])
        found = SignatureModel(source)(X, scale)
        close(found["logits"], expected["logits"])
        close(found["hidden"], expected["hidden"])


def test_a_function_that_was_frozen_already() -> None:
    module = small.TwoLayers()
    constant = convert_variables_to_constants_v2(module.embed.get_concrete_function())
    source = load_source(constant)
    assert names(source) == (["value"], ["output_0"])
    close(SignatureModel(source)(X), module.embed(X))


def test_reading_a_model_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    load_source(small.TwoLayers())
    assert not caplog.records


def test_a_saved_module_without_signatures(tmp_path: Path) -> None:
    module, scale = small.TwoLayers(), np.ones((8, 1), np.float32)
    tf.saved_model.save(module, tmp_path / "model")
    source = load_source(tmp_path / "model")
    assert names(source) == (["value", "scale"], ["hidden", "logits"])
    close(SignatureModel(source)(X, scale)["logits"], module(X, scale)["logits"])


def test_several_signatures_share_their_weights(tmp_path: Path) -> None:
    source = load_source(small.two_signatures(tmp_path / "model"))
    assert list(source.signatures) == ["serving_default", "embed"]
    first, second = source.signatures.values()
    shared = {id(array) for array in first.weights.values()} & {id(array) for array in second.weights.values()}
    assert len(shared) == 1
    assert len(SignatureModel(source).weights) == 2
    module = small.TwoLayers()
    close(SignatureModel(source).signatures["embed"](value=X)["output_0"], module.embed(X))


def test_signatures_can_be_chosen(tmp_path: Path) -> None:
    path = small.two_signatures(tmp_path / "model")
    assert list(load_source(path, "embed").signatures) == ["embed"]
    assert list(load_source(path, ["embed", "serving_default"]).signatures) == ["serving_default", "embed"]
    with pytest.raises(ArgumentError, match=r"no signature 'embd'.*It has: .*'embed'.*Did you mean 'embed'"):
        load_source(path, ["embd"])


def test_control_flow_bodies_are_listed_and_work() -> None:
    module = small.WithControlFlow()
    source = load_source(module)
    graph = source.signatures["serving_default"]
    assert sorted(name for name, kind in graph.body_operators.items() if kind == "MatMul") == [
        "cond/then_branch/cond/matmul",
        "while/body/while/matmul",
    ]
    assert [node.op for node in graph.graph_def.node].count("MatMul") == 1
    close(SignatureModel(source)(X), module(X))


def test_a_compiled_function_is_a_body() -> None:
    inner = tf.function(lambda x, w: x @ w, jit_compile=True)
    weight = tf.Variable(X.T @ X)
    outer = tf.function(lambda x: inner(x, weight) + 1, input_signature=[tf.TensorSpec([None, 32], name="x")])
    source = load_source(outer)
    assert "MatMul" in source.signatures["serving_default"].body_operators.values()
    close(SignatureModel(source)(X), outer(X))


def test_a_graph_def(tmp_path: Path) -> None:
    small.frozen_graph(tmp_path / "frozen.pb")
    for form in (small.frozen_graph(), tmp_path / "frozen.pb"):
        source = load_source(form)
        assert names(source) == (["x"], ["probabilities"])
        result = SignatureModel(source)(X)
        close(tf.reduce_sum(result, -1), np.ones(8))


def test_a_graph_def_with_declared_ends() -> None:
    declared = {"scores": {"inputs": {"features": "x:0"}, "outputs": ["product"]}}
    source = load_source(small.frozen_graph(), declared)
    assert names(source, "scores") == (["features"], ["product"])
    assert [node.op for node in source.signatures["scores"].graph_def.node].count("Softmax") == 0


def test_weights_are_apart_and_read_only() -> None:
    graph = load_source(small.dense_chain()).signatures["serving_default"]
    assert sorted(array.shape for array in graph.weights.values()) == [(32, 64), (64, 5), (64, 64)]
    assert not any(array.flags.writeable for array in graph.weights.values())
    assert graph.graph_def.ByteSize() < 10_000


DESCRIBE = """
from tests.tf.model.test_source import digests
print(*digests())
"""


def digests() -> list[str]:
    models = (small.WithControlFlow(), small.dense_chain())
    graphs = [load_source(model).signatures["serving_default"] for model in models]
    texts = [graph.graph_def.SerializeToString(deterministic=True) for graph in graphs]
    return [hashlib.sha256(text).hexdigest() for text in texts]


def test_the_same_model_is_the_same_graph_in_every_process() -> None:
    load_source(small.transformer_block())  # TensorFlow counts on
    root = Path(__file__).parents[3]
    fresh = subprocess.run([sys.executable, "-c", DESCRIBE], capture_output=True, text=True, check=True, cwd=root)
    assert fresh.stdout.split() == digests()
