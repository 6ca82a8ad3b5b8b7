"""Models of old opsets, functions of another opset than their model, and the standard domain by its long name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import WIDTH, GraphWriter, linear_chain, vectors

GENERATOR = np.random.default_rng(0)
FLOATS = TensorProto.FLOAT


def outputs(model: ModelProto, x: np.ndarray) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def old_model(opset: int, nodes: list[NodeProto], **constants: Any) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["a"], "conv"), *nodes],
        "old",
        [helper.make_tensor_value_info("x", FLOATS, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", FLOATS, None)],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in ({"weight": GENERATOR.normal(size=(16, 3, 3, 3)) * 0.3} | constants).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)


OLD = {
    "softmax over the last dimensions": (7, [helper.make_node("Softmax", ["a"], ["y"], axis=1)], {}),
    "softmax of opset 12": (12, [helper.make_node("LogSoftmax", ["a"], ["y"], axis=2)], {}),
    "axes as attributes": (
        11,
        [
            helper.make_node("ReduceSum", ["a"], ["s"], axes=[2, 3], keepdims=0),
            helper.make_node("Unsqueeze", ["s"], ["y"], axes=[0]),
        ],
        {},
    ),
    "split": (
        11,
        [
            helper.make_node("Split", ["a"], ["b", "c"], axis=1, split=[4, 12]),
            helper.make_node("Concat", ["c", "b"], ["y"], axis=1),
        ],
        {},
    ),
    "bounds as attributes": (9, [helper.make_node("Clip", ["a"], ["y"], min=0.0, max=6.0)], {}),
    "upsample": (9, [helper.make_node("Upsample", ["a", "s"], ["y"], mode="nearest")], {"s": [1, 1, 2, 2]}),
    "dropout": (8, [helper.make_node("Dropout", ["a"], ["y"], ratio=0.5)], {}),
    "upsample linearly": (9, [helper.make_node("Upsample", ["a", "s"], ["y"], mode="linear")], {"s": [1, 1, 2, 3]}),
    "resize": (10, [helper.make_node("Resize", ["a", "s"], ["y"], mode="linear")], {"s": [1, 1, 2, 2]}),
    "resize to less": (10, [helper.make_node("Resize", ["a", "s"], ["y"], mode="nearest")], {"s": [1, 1, 0.6, 0.6]}),
    "resize to more": (10, [helper.make_node("Resize", ["a", "s"], ["y"], mode="nearest")], {"s": [1, 1, 1.4, 2.7]}),
}


@pytest.mark.parametrize(("opset", "nodes", "constants"), OLD.values(), ids=OLD)
def test_an_old_model_computes_the_same(opset: int, nodes: list[NodeProto], constants: dict[str, Any]) -> None:
    model = old_model(opset, nodes, **constants)
    source = load_source(model)
    assert [each.version for each in source.proto.opset_import] == [13]
    x = GENERATOR.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(make_session(source).run(None, {"x": x})[0], outputs(model, x), rtol=1e-5, atol=1e-6)


def test_a_conversion_is_noted() -> None:
    model = old_model(11, OLD["split"][1])
    data = [GENERATOR.normal(size=(2, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    tuned = ort_ext.autotune(model, data, progress=False)
    assert tuned.recipe.operators["conv"].config.is_quantized
    assert tuned.tuning_result is not None
    expected = "the model, of opset 11, was converted to opset 13; outputs differ by"
    assert any(note.startswith(expected) for note in tuned.tuning_result.notes)


def test_a_conversion_that_changes_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = onnx.version_converter.convert_version

    def wrong(proto: ModelProto, target: int) -> ModelProto:
        result = convert(proto, target)
        next(node for node in result.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
        return result

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    with pytest.raises(ModelError, match=r"from opset 12 to 13 .* computes something else.*Export it again"):
        ort_ext.autotune(linear_chain_of(12), vectors(), progress=False)


def linear_chain_of(opset: int) -> ModelProto:
    return helper.make_model(linear_chain().graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def with_function(model_opset: int, function_opset: int, body: list[NodeProto], **attributes: Any) -> ModelProto:
    """`x` [batch, 32] through a MatMul, a function of its own opset, and a MatMul."""
    graph = GraphWriter()
    hidden = graph.add("MatMul", "x", graph.random("first.weight", WIDTH, WIDTH), name="first")
    hidden = graph.add("Own", hidden, name="own", domain="mine", **attributes)
    graph.add("MatMul", hidden, graph.random("second.weight", WIDTH, 5), name="second")
    graph.nodes[-1].output[0] = "y"
    own = helper.make_function(
        "mine", "Own", ["a"], ["o"], body, [helper.make_opsetid("", function_opset)], attributes=list(attributes)
    )
    proto = helper.make_graph(
        graph.nodes,
        "functions",
        [helper.make_tensor_value_info("x", FLOATS, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", FLOATS, ["batch", 5])],
        graph.initializers,
    )
    imports = [helper.make_opsetid("", model_opset), helper.make_opsetid("mine", 1)]
    return helper.make_model(proto, opset_imports=imports, ir_version=8, functions=[own])


def leaky(name: str) -> NodeProto:
    node = helper.make_node("LeakyRelu", ["a"], ["o"], "leaky")
    node.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name=name))
    return node


def center(opset: int) -> list[NodeProto]:
    """What a function of this opset does: subtract the mean of each row, without what is negative then."""
    axes = {"axes": [1]} if opset < 18 else {}
    constant = helper.make_node("Constant", [], ["axes"], value_ints=[1])
    mean = helper.make_node("ReduceMean", ["a"] if axes else ["a", "axes"], ["m"], **axes)
    rest = [helper.make_node("Sub", ["a", "m"], ["d"]), helper.make_node("Relu", ["d"], ["o"])]
    return [mean, *rest] if axes else [constant, mean, *rest]


@pytest.mark.parametrize(("model_opset", "function_opset"), [(18, 13), (18, 17), (17, 18), (13, 20), (18, 18), (15, 9)])
def test_functions_of_another_opset(model_opset: int, function_opset: int) -> None:
    model = with_function(model_opset, function_opset, center(function_opset))
    x = vectors()[0]
    first, second = (numpy_helper.to_array(each) for each in model.graph.initializer)
    hidden = x @ first
    expected = np.maximum(hidden - hidden.mean(axis=1, keepdims=True), 0) @ second
    tuned = ort_ext.autotune(model, vectors(), progress=False)
    assert tuned.source is not None
    np.testing.assert_allclose(make_session(tuned.source).run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-5)
    assert [name for name, each in tuned.recipe.operators.items() if each.config.is_quantized] == ["first", "second"]
    assert tuned.tuning_result is not None
    notes = [note for note in tuned.tuning_result.notes if "converted to opset" in note]
    assert len(notes) == (model_opset != function_opset)


@pytest.mark.parametrize("function_opset", [13, 15, 18])
def test_attributes_of_the_caller_reach_a_converted_function(function_opset: int) -> None:
    model = with_function(18, function_opset, [leaky("slope")], slope=0.3)
    x = vectors()[0]
    np.testing.assert_allclose(
        make_session(load_source(model)).run(None, {"x": x})[0], outputs(model, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("where", ["nodes", "imports", "both"])
def test_the_standard_domain_by_its_long_name(where: str) -> None:
    model = linear_chain()
    if where != "imports":
        for node in model.graph.node:
            node.domain = "ai.onnx"
    if where != "nodes":
        model.opset_import[0].domain = "ai.onnx"
    tuned = ort_ext.autotune(model, vectors(), progress=False)
    assert all(each.config.is_quantized for each in tuned.recipe.operators.values())
    onnx.checker.check_model(ort_ext.convert(tuned, "qdq"))
