"""Functions that a graph only calls are part of it, whoever froze it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.operators.discovery import find_operators
from tests.tf.quantizing import graph_of, random
from tests.tf.small_models import WIDTH, chain_data

X = chain_data()


class Calling(tf.Module):
    """Functions within functions, one of which asks not to be inlined, and one that XLA compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [tf.Variable(random(WIDTH, WIDTH, seed=seed) / 6) for seed in range(4)]
        first, second, third, fourth = self.weights
        product = tf.function(lambda x, weight: (x, tf.nn.relu(x @ weight)), autograph=False)
        apart = tf.function(lambda x: x @ third, autograph=False, experimental_attributes={"_noinline": True})
        compiled = tf.function(lambda x: tf.tanh(x @ fourth), autograph=False, jit_compile=True)
        twice = tf.function(lambda x: product(product(x, first)[1], second), autograph=False)

        def checked(x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), 1e6)]):
                return apart(x)

        def serve(x: Any) -> dict[str, Any]:
            given, made = twice(x)
            return {"given": given, "made": made, "checked": checked(made) + compiled(x)}

        specs = [tf.TensorSpec([None, WIDTH], name="x")]
        self.serve = tf.function(serve, input_signature=specs, autograph=False)


def frozen_by_tensorflow_1(directory: Path) -> tuple[GraphDef, dict[str, Any]]:
    """A SavedModel as the tools of TensorFlow 1 freeze it, and its ends."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, ["serve"], str(directory)).signature_def["serving_default"]
        ends = {
            "inputs": {key: each.name for key, each in signature.inputs.items()},
            "outputs": {key: each.name for key, each in signature.outputs.items()},
        }
        names = [each.split(":")[0] for each in ends["outputs"].values()]
        return v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), names), ends


@pytest.mark.parametrize("by", ["this library", "TensorFlow 1"])
def test_products_in_called_functions_are_found(by: str, tmp_path: Path) -> None:
    module = Calling()
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": module.serve})
    if by == "TensorFlow 1":
        graph_def, ends = frozen_by_tensorflow_1(tmp_path / "model")
        assert {node.op for node in graph_def.node} <= {"Const", "Placeholder", "StatefulPartitionedCall"}
        source = load_source(graph_def, {"serving_default": ends})
    else:
        source = load_source(tmp_path / "model")
    operators = find_operators(graph_of(source))
    assert len(operators.found) == 3
    assert [reason for _, reason in operators.skipped.values() if "XLA" in reason]
    expected = module.serve(X)
    for name, value in SignatureModel(source).signatures["serving_default"](x=X).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_an_assertion_of_a_called_function_still_holds(tmp_path: Path) -> None:
    module = Calling()
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": module.serve})
    model = SignatureModel(load_source(tmp_path / "model"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.signatures["serving_default"](x=X * 1e8)


def test_a_call_inside_a_loop_runs_after_the_graph_is_named_anew() -> None:
    weight = tf.Variable(random(WIDTH, WIDTH) / 6)
    inner = tf.function(lambda x: tf.tanh(x @ weight), autograph=False)

    def serve(x: Any) -> Any:
        return tf.while_loop(lambda step, _: step < 3, lambda step, y: (step + 1, inner(y)), (0, x))[1] @ weight

    function = tf.function(serve, input_signature=[tf.TensorSpec([None, WIDTH], name="x")], autograph=False)
    source = load_source(function)
    np.testing.assert_allclose(SignatureModel(source)(X), function(X), rtol=1e-4, atol=1e-5)
