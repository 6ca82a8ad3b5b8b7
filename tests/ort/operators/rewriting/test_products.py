"""Products with a constant, however they are written, become integer products and compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.processors import pretend
from tests.ort.small_models import GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

Case = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]
FUSED: dict[str, Any] = {"domain": "com.microsoft"}

EINSUMS = [
    ("bij,jk->bik", (2, 6, 8), (8, 5)),
    ("bij,kj", (2, 6, 8), (5, 8)),
    ("jk,bij->bik", (2, 6, 8), (8, 5)),
    ("bij,jk->kib", (2, 6, 8), (8, 5)),
    ("bthd,hde->bte", (2, 6, 3, 4), (3, 4, 5)),
    ("bte,ehd->bthd", (2, 6, 8), (8, 3, 4)),
    ("bthd,hde->bthe", (2, 6, 3, 4), (3, 4, 5)),
    ("hd,hde->he", (3, 4), (3, 4, 5)),
    ("bhtd,hds->bhts", (2, 3, 6, 4), (3, 4, 7)),
    ("...i,oi->...o", (2, 6, 8), (5, 8)),
    ("bcw,vw->bcv", (2, 6, 8), (8, 8)),
    ("ncvw,vk->nckw", (2, 3, 6, 4), (6, 5)),
]
PRODUCTS: dict[str, Case] = {
    "stack": ("MatMul", (3, 6, 8), (3, 8, 5), {}),
    "stack for every sample": ("MatMul", (2, 3, 6, 8), (3, 8, 5), {}),
    "two stacked dimensions": ("MatMul", (2, 3, 6, 8), (2, 3, 8, 5), {}),
    "fused": ("FusedMatMul", (2, 6, 8), (8, 5), {"alpha": 0.5, **FUSED}),
    "fused, transposed": ("FusedMatMul", (2, 8, 6), (5, 8), {"transA": 1, "transB": 1, **FUSED}),
    "transA": ("Gemm", (8, 6), (8, 5), {"transA": 1, "alpha": 2.0}),
}
LEFT: dict[str, Case] = {
    "left": ("MatMul", (8, 6), (5, 8), {}),
    "left for every sample": ("MatMul", (2, 3, 8, 6), (5, 8), {}),
    "fused": ("FusedMatMul", (2, 6, 8), (8, 5), {"alpha": 0.5, "transA": 1, "transB": 1, **FUSED}),
    "gemm": ("Gemm", (6, 8), (5, 8), {"transB": 1, "alpha": 0.5}),
}


def product(case: Case, *, left: bool = False) -> ModelProto:
    """`x` of a shape times a weight of a shape, by one node called `product`."""
    op_type, shape, weight, attributes = case
    writer = GraphWriter()
    operands = ["x", writer.random("weight", *weight, scale=0.3)]
    writer.add(op_type, *(reversed(operands) if left else operands), name="product", **attributes)
    writer.nodes[-1].output[0] = "y"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])
    y = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(writer.nodes, "product", [x], [y], writer.initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check(model: ModelProto, shape: tuple[int, ...], *, approach: str = "static") -> ort_ext.TunedModel:
    data = vectors(4, *shape)
    tuned = ort_ext.autotune(model, data, approach=approach, progress=False)
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    expected = make_session(load_source(model)).run(None, {"x": data[0]})[0]
    for form in ("qdq", "cpu"):
        built = ort_ext.convert(tuned, form)
        assert not {"Einsum", "FusedMatMul", "Gemm"} & {node.op_type for node in built.graph.node}
        found = ort_ext.session(tuned, form=form).run(None, {"x": data[0]})[0]
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned)
    return tuned


@pytest.mark.parametrize("approach", ["static", "dynamic"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_with_the_constant_second(name: str, approach: str) -> None:
    check(product(PRODUCTS[name]), PRODUCTS[name][1], approach=approach)


@pytest.mark.parametrize("approach", ["static", "dynamic"])
@pytest.mark.parametrize("name", LEFT)
def test_with_the_constant_first(name: str, approach: str) -> None:
    check(product(LEFT[name], left=True), LEFT[name][1], approach=approach)


@pytest.mark.parametrize(("equation", "x", "weight"), EINSUMS, ids=[equation for equation, _, _ in EINSUMS])
def test_einsums(equation: str, x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    first = equation.split(",")[0].replace("...", "bt")
    case: Case = ("Einsum", x, weight, {"equation": equation})
    check(product(case, left=len(first) != len(x)), x)


@pytest.mark.parametrize("equation", ["bij,jk->bi", "bij,kl->bijkl", "bii,ij->bj", "bij,ij->bij"])
def test_einsums_that_multiply_no_matrices_stay(equation: str) -> None:
    writer = GraphWriter()
    weight = writer.random("weight", 8, 8)
    writer.linear(writer.add("Einsum", "x", weight, name="einsum", equation=equation), "head", 8, 4)
    if equation == "bij,kl->bijkl":
        writer.add("ReduceSum", "head.add.out", writer.constant("axes", [1, 2], np.int64), keepdims=0)
    rank = {"bij,jk->bi": 2, "bii,ij->bj": 2}.get(equation, 3)
    model = writer.model({"x": (TensorProto.FLOAT, ["batch", 8, 8])}, rank)
    tuned = ort_ext.autotune(model, vectors(4, 2, 8, 8), progress=False)
    assert "Einsum" in tuned.tuning_result.fallbacks["einsum"]


def test_a_gemm_with_its_weight_first_adds_what_it_added() -> None:
    writer = GraphWriter()
    writer.add("Gemm", writer.random("weight", 8, 5), "x", writer.random("c", 5, 6), name="gemm", transA=1, beta=0.5)
    model = writer.model({"x": (TensorProto.FLOAT, [8, 6])}, 2)
    check(model, (8, 6))


@pytest.mark.parametrize("case", [PRODUCTS["stack"], EINSUMS[5]], ids=["stack", "einsum"])
def test_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch, case: Any) -> None:
    pretend(monkeypatch, vnni=False)
    equation, x, weight = case if len(case) == 3 else ("", case[1], case[2])
    model = product(("Einsum", x, weight, {"equation": equation}) if equation else case)
    tuned = check(model, x)
    assert {each.key: each.value for each in ort_ext.convert(tuned).metadata_props}["inc_autotune.weight_bits"] == "7"


def test_a_stack_of_matrices_is_not_stored_in_blocks() -> None:
    writer = GraphWriter()
    writer.linear(writer.add("MatMul", "x", writer.random("weight", 2, 8, 8), name="stack"), "head", 8, 4)
    model = writer.model({"x": (TensorProto.FLOAT, [2, 3, 8])}, 3)
    tuned = ort_ext.autotune(model, vectors(4, 2, 3, 8), approach="weight_only", progress=False)
    assert "not a stack" in tuned.tuning_result.fallbacks["stack"]


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("FusedGemm", {"activation": "Relu"}),
        ("FusedGemm", {"activation": "LeakyRelu", "activation_alpha": 0.2, "alpha": 0.5}),
    ],
)
def test_gemms_that_were_fused_with_their_activation(op_type: str, attributes: dict[str, Any]) -> None:
    check(product((op_type, (6, 8), (8, 5), {**attributes, **FUSED})), (6, 8))


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("Clip", [0.0, 1.0]), ("LeakyRelu", [0.1]), ("HardSigmoid", [0.2, 0.5]), ("Tanh", [])],
)
@pytest.mark.parametrize("added", [False, True])
def test_convolutions_that_were_fused(activation: str, parameters: list[float], added: bool) -> None:
    writer = GraphWriter()
    inputs = ["x", writer.random("weight", 4, 4, 3, 3, scale=0.2), writer.random("bias", 4, scale=0.2)]
    given = {"activation": activation, "pads": [1, 1, 1, 1], **FUSED}
    given |= {"activation_params": parameters} if parameters else {}
    writer.add("FusedConv", *inputs, *(["x"] if added else []), name="conv", **given)
    writer.nodes[-1].output[0] = "y"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])
    graph = helper.make_graph(
        writer.nodes, "fused", [x], [helper.make_empty_tensor_value_info("y")], writer.initializers
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    check(helper.make_model(graph, opset_imports=opsets, ir_version=10), (2, 4, 6, 6))
