"""Operators with weights that stay in fp32 are listed with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.unsupported import weights_in_bodies, weights_of
from tests.ort.small_models import WIDTH, GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def with_fused_product(product: str = "MatMul") -> ModelProto:
    writer = GraphWriter()
    weight = writer.random("fused.weight", WIDTH, WIDTH)
    given = {"domain": "com.microsoft", "activation": "Elu", "activation_alpha": 0.5}
    fused = writer.add("FusedGemm", "x", weight, name="fused", **given)
    writer.add("Gelu", fused, name="gelu", domain="com.microsoft")
    if product == "MatMul":
        writer.add("MatMul", "gelu.out", writer.random("fc.weight", WIDTH, WIDTH), name="fc")
    writer.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        writer.nodes,
        "fused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_fused_operators_are_in_the_result_with_their_share() -> None:
    tuned = ort_ext.autotune(with_fused_product(), vectors(), progress=False)
    outcome = next(each for each in tuned.tuning_result.operators if each.name == "fused")
    assert "com.microsoft operators stay as they are" in str(outcome.reason)
    assert "50 % of the weights" in str(outcome.reason)
    assert all(each.name != "gelu" for each in tuned.tuning_result.operators)


def test_they_are_named_where_there_is_nothing_else() -> None:
    with pytest.raises(ModelError, match=r"nothing to quantize: (.|\n)*fused: com.microsoft operators stay.*100 %"):
        ort_ext.autotune(with_fused_product("none"), vectors(), progress=False)


@pytest.mark.parametrize(("op_type", "words"), [("ConvTranspose", "output_shape"), ("GRU", "gates are clipped")])
def test_standard_operators_without_a_quantized_form(op_type: str, words: str) -> None:
    writer = GraphWriter()
    if op_type == "GRU":
        weights = [writer.random("w", 1, 12, 3), writer.random("r", 1, 12, 4)]
        writer.add("GRU", "x", *weights, name="op", hidden_size=4, clip=1.0)
        writer.add("Squeeze", "op.out", writer.constant("axis", [1], np.int64), name="squeeze")
    else:
        writer.add("ConvTranspose", "x", writer.random("w", 2, 3, 3), name="op", strides=[2], output_shape=[9])
    model = writer.model({"x": (TensorProto.FLOAT, [5, 2, 3])}, 3)
    assert words in find_operators(Graph(load_source(model))).skipped["op"][1]


def test_how_much_is_int8_stands_in_the_first_lines() -> None:
    result = ort_ext.autotune(with_fused_product(), vectors(), progress=False).tuning_result
    assert result.weight_shares == {"fp32": 0.5, "int8": 0.5}
    assert str(result).splitlines()[1] == "int8: 50 % of the weights; largest in fp32: fused (FusedGemm) 50 %"


def test_a_recurrence_whose_weights_are_computed_from_constants_is_listed() -> None:
    writer = GraphWriter()
    computed = writer.add("Expand", writer.random("w", 1, 12, 3), writer.constant("shape", [1, 12, 3], np.int64))
    computed = writer.add("CumSum", computed, writer.constant("axis", 0, np.int64))
    writer.add("GRU", "x", computed, writer.random("r", 1, 12, 4), name="op", hidden_size=4, clip=1.0)
    writer.add("Squeeze", "op.out", writer.constant("axes", [1], np.int64), name="squeeze")
    graph = Graph(load_source(writer.model({"x": (TensorProto.FLOAT, [5, 2, 3])}, 3)))
    assert "op" in find_operators(graph).skipped
    assert sum(weights_of(graph, "op").values()) == 12 * 3 + 12 * 4


def test_weights_inside_bodies_and_around_them_are_known() -> None:
    own = helper.make_tensor("own", TensorProto.FLOAT, [WIDTH, WIDTH], [0.0] * WIDTH**2)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "outer"], ["first"], name="first"),
            helper.make_node("MatMul", ["first", "own"], ["second"], name="second"),
        ],
        "body",
        [],
        [helper.make_tensor_value_info("second", TensorProto.FLOAT, None)],
        [own],
    )
    writer = GraphWriter()
    writer.random("outer", WIDTH, WIDTH)
    condition = writer.constant("condition", True, np.bool_)
    writer.nodes.append(helper.make_node("If", [condition], ["y"], name="If_0", then_branch=body, else_branch=body))
    graph = Graph(load_source(writer.model({"x": (TensorProto.FLOAT, ["batch", WIDTH])}, 2)))
    found = weights_in_bodies(graph)
    assert list(found["If_0/then_branch/first"].values()) == [WIDTH**2]
    assert list(found["If_0/then_branch/second"].values()) == [WIDTH**2]
    assert found["If_0/then_branch/first"] == found["If_0/else_branch/first"]
