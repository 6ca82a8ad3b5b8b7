"""Gemms with alpha, beta and biases of other shapes are quantized like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.target.forms import QDQ
from tests.ort.small_models import WIDTH, GraphWriter, vectors

FEATURES = 8


def gemm(bias: tuple[int, ...] | None, **attributes: Any) -> ModelProto:
    """Two Gemms of the same weight."""
    writer = GraphWriter()
    shape = (FEATURES, WIDTH) if attributes.get("transB") else (WIDTH, FEATURES)
    inputs = ["x", writer.random("w", *shape, scale=0.2)]
    if bias is not None:
        inputs.append(writer.random("b", *bias, scale=1.0))
    parts = [writer.add("Gemm", *inputs, name=name, **attributes) for name in ("first", "second")]
    writer.add("Concat", parts[0], writer.add("Tanh", parts[1], name="tanh"), name="both", axis=1)
    return writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


CASES: list[tuple[tuple[int, ...] | None, dict[str, Any]]] = [
    ((1, FEATURES), {}),
    ((1, 1), {"transB": 1}),
    ((1,), {}),
    ((), {"transB": 1}),
    ((FEATURES,), {"alpha": 0.5}),
    ((FEATURES,), {"beta": -2.0, "transB": 1}),
    ((1, FEATURES), {"alpha": 3.0, "beta": 0.5}),
    ((FEATURES,), {"beta": 0.0}),
    (None, {"alpha": 2.0, "transB": 1}),
]


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(("bias", "attributes"), CASES, ids=str)
@pytest.mark.parametrize("gemm_to_matmul", [True, False])
def test_a_gemm_that_can_be_written_plainly_is_quantized(
    bias: tuple[int, ...] | None, attributes: dict[str, Any], gemm_to_matmul: bool
) -> None:
    model = gemm(bias, **attributes)
    tuned = ort_ext.autotune(model, vectors(), progress=False, recipes={"gemm_to_matmul": gemm_to_matmul})
    assert all(each.config.is_quantized for each in tuned.recipe.operators.values())
    x = vectors()[0]
    expected = make_session(load_source(model)).run(None, {"x": x})[0]
    for form in ("qdq", "cpu"):
        got = ort_ext.session(tuned, form=form).run(None, {"x": x})[0]
        assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)
    weights = [each for each in ort_ext.convert(tuned).graph.initializer if np.prod(each.dims) == WIDTH * FEATURES]
    assert [each.data_type for each in weights] == [TensorProto.INT8]


@pytest.mark.parametrize(("bias", "attributes"), CASES, ids=str)
def test_a_plain_gemm_computes_the_same_in_fp32(bias: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    source = load_source(gemm(bias, **attributes))
    outputs = [make_session(each).run(None, {"x": vectors()[0]})[0] for each in (source, rewritten(source, QDQ).model)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def test_a_gemm_with_a_bias_for_each_row_stays() -> None:
    source = load_source(gemm((4, FEATURES)))
    graph = rewritten(source, QDQ)
    assert [node for node in graph.nodes if node.op_type == "Gemm"] == list(source.proto.graph.node[:2])
    assert set(find_operators(graph).skipped) == {"first", "second"}
