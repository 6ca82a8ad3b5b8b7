"""Names of new nodes and tensors, in models that have such names already."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.ort_ext.graph.builder import GraphBuilder
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import VOCABULARY, WIDTH, GraphWriter, linear_chain, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def two_weights_of_similar_names() -> ModelProto:
    """`fc` is read by two MatMuls, a third reads `fc.2`."""
    writer = GraphWriter()
    writer.random("fc", WIDTH, WIDTH)
    writer.random("fc.2", WIDTH, WIDTH)
    x = "x"
    for name, weight in (("first", "fc"), ("second", "fc"), ("third", "fc.2")):
        x = writer.add("MatMul", writer.add("Relu", x, name=f"{name}.relu"), weight, name=name)
    return writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


def a_tensor_named_like_a_second_version() -> ModelProto:
    """`x` is quantized in two ways, and so is `x.2`."""
    writer = GraphWriter()
    parts = [writer.add("MatMul", "x", writer.random(f"w{each}", WIDTH, 8), name=each) for each in ("first", "second")]
    writer.nodes.append(onnx.helper.make_node("Neg", ["x"], ["x.2"], "neg"))
    writer.add("Sum", *parts, writer.add("MatMul", "x.2", writer.random("w3", WIDTH, 8), name="third"), name="sum")
    return writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


def an_embedding_named_like_its_output() -> ModelProto:
    writer = GraphWriter()
    table = writer.random("table", VOCABULARY, WIDTH, scale=1.0)
    writer.nodes.append(onnx.helper.make_node("Gather", [table, "ids"], ["words"], "words"))
    writer.add("MatMul", "words", writer.random("w", WIDTH, 8), name="fc")
    return writer.model({"ids": (TensorProto.INT64, ["n", "sequence"])}, 3)


def nodes_named_like_new_ones() -> ModelProto:
    """What is added for `x` and `op` would be called like other nodes and like an input."""
    writer = GraphWriter()
    x = writer.add("Neg", "x", name="x.quantized.QuantizeLinear")
    y = writer.add("MatMul", "x", writer.random("w", WIDTH, WIDTH), name="op")
    y = writer.add("Add", y, writer.random("b", WIDTH), name="bias")
    y = writer.add("Relu", writer.add("Sum", x, y, name="op.product.MatMul"), name="op.bias")
    writer.add("Neg", y, name="x.quantized.dequantized.DequantizeLinear")
    kinds = {"x": (TensorProto.FLOAT, ["n", WIDTH]), "x.quantized": (TensorProto.FLOAT, [1])}
    return writer.model(kinds, 2)


SYMMETRIC = {"activation": {"scheme": ["sym"]}}
X = [{"x": each} for each in vectors()]
CASES: dict[str, tuple[ModelProto, list[Any], dict[str, Any]]] = {
    "second weight": (two_weights_of_similar_names(), X, {"smoothquant_args": {"alpha": 0.5}}),
    "second activation": (a_tensor_named_like_a_second_version(), X, {"op_name_dict": {"first": SYMMETRIC}}),
    "embedding": (
        an_embedding_named_like_its_output(),
        [{"ids": np.arange(40).reshape(8, 5)}] * 2,
        {"objective": "modelsize"},
    ),
    "nodes": (nodes_named_like_new_ones(), [{**each, "x.quantized": np.ones(1, np.float32)} for each in X], {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_names_that_the_model_uses_stay_what_they_are(case: str, form: str) -> None:
    model, data, arguments = CASES[case]
    tuned = ort_ext.autotune(model, data, progress=False, **arguments)
    assert any(each.config.is_quantized for each in tuned.recipe.operators.values())
    written = ort_ext.convert(tuned, form)
    onnx.checker.check_model(written)
    names = [node.name for node in written.graph.node]
    assert len(set(names)) == len(names)
    expected, got = (
        session.run(None, data[0])[0]
        for session in (make_session(load_source(model)), ort_ext.session(tuned, form=form))
    )
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def test_one_version_needs_no_number() -> None:
    tuned = ort_ext.autotune(
        linear_chain(), vectors(), progress=False, smoothquant_args={"alpha": 0.5, "folding": False}
    )
    tensors = {name for node in ort_ext.convert(tuned).graph.node for name in (*node.input, *node.output)}
    assert "x.smoothed.quantized" in tensors
    assert not any(".2" in name for name in tensors)


def test_new_names_are_handed_out_once() -> None:
    builder = GraphBuilder(Graph(load_source(linear_chain())))
    assert [builder.new("fc1.out") for _ in range(2)] == ["fc1.out_", "fc1.out__"]
    assert [builder.new_node(name) for name in ("fc1", "new", "new")] == ["fc1_", "new", "new_"]
    assert [builder.constant("half", np.float32(value)) for value in (0.5, 0.25)] == ["half", "half_"]
