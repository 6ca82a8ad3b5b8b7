"""The projection of onnxruntime's fused Attention is quantized like any other product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from inc_autotune import ort_ext
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from tests.ort.small_models import WIDTH, GraphWriter

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

BATCH, LENGTH, HEADS = 4, 6, 4
MASK, MASK_3D, BIAS = ["n", "s"], ["n", "s", "s"], [1, HEADS, LENGTH, LENGTH]


def fused(*, mask: list[Any] | None = None, attention_bias: bool = False, **attributes: Any) -> ModelProto:
    """`x` [n, s, 32] through a fused Attention to `y`."""
    writer = GraphWriter()
    features = sum(attributes.get("qkv_hidden_sizes", [WIDTH] * 3))
    inputs = ["x", writer.random("weight", WIDTH, features), writer.random("bias", features)]
    inputs += ["mask" if mask else "", "", writer.random("position", *BIAS) if attention_bias else ""]
    writer.add("Attention", *inputs, name="attention", domain="com.microsoft", num_heads=HEADS, **attributes)
    writer.nodes[-1].output[0] = "y"
    described = [("x", TensorProto.FLOAT, ["n", "s", WIDTH])]
    described += [("mask", TensorProto.INT32, mask)] if mask else []
    graph = helper.make_graph(
        writer.nodes,
        "fused",
        [helper.make_tensor_value_info(*each) for each in described],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "s", None])],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def feed(model: ModelProto, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    given = {"x": generator.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)}
    if len(model.graph.input) > 1:
        lengths = generator.integers(2, LENGTH + 1, BATCH)
        mask = np.arange(LENGTH) < lengths[:, None]
        if len(model.graph.input[1].type.tensor_type.shape.dim) == 3:
            mask = np.repeat(mask[:, None], LENGTH, axis=1)
        given["mask"] = mask.astype(np.int32)
    return given


VARIANTS: list[dict[str, Any]] = [
    {},
    {"mask": MASK},
    {"mask": MASK_3D},
    {"unidirectional": 1},
    {"mask": MASK, "mask_filter_value": -100.0, "scale": 0.5},
    {"attention_bias": True},
    {"qkv_hidden_sizes": [WIDTH, WIDTH, 2 * WIDTH]},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_parts_compute_what_the_fused_operator_does(variant: dict[str, Any]) -> None:
    model = fused(**variant)
    source = load_source(model)
    (expected,) = make_session(source).run(None, feed(model))
    for form in (QDQ, CPU):
        (got,) = make_session(rewritten(source, form).model).run(None, feed(model))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("variant", [{}, {"mask": MASK}], ids=str)
@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_the_projection_is_quantized(variant: dict[str, Any], form: str) -> None:
    model = fused(**variant)
    tuned = ort_ext.autotune(model, [feed(model, seed) for seed in range(8)], progress=False)
    assert [each.name for each in tuned.tuning_result.operators if each.dtype == "int8"] == ["attention"]
    given = feed(model, 100)
    (expected,) = make_session(load_source(model)).run(None, given)
    (got,) = ort_ext.session(tuned, form=form).run(None, given)
    assert 0 < np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_past_keys_and_values_are_kept(past: int, masked: bool) -> None:
    writer = GraphWriter()
    inputs = ["x", writer.random("weight", WIDTH, 3 * WIDTH), writer.random("bias", 3 * WIDTH)]
    inputs += ["mask" if masked else "", "past" if past else ""]
    given = {"domain": "com.microsoft", "num_heads": HEADS, "unidirectional": 1}
    writer.add("Attention", *inputs, name="attention", outputs=2, **given)
    state = (2, BATCH, HEADS, past, WIDTH // HEADS)
    described = [("x", TensorProto.FLOAT, ["n", "s", WIDTH])]
    described += [("mask", TensorProto.INT32, ["n", "t"])] if masked else []
    described += [("past", TensorProto.FLOAT, [2, "n", HEADS, "p", WIDTH // HEADS])] if past else []
    graph = helper.make_graph(
        writer.nodes,
        "fused",
        [helper.make_tensor_value_info(*each) for each in described],
        [helper.make_empty_tensor_value_info(name) for name in writer.nodes[-1].output],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    generator = np.random.default_rng(0)
    data: dict[str, Any] = {"x": generator.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)}
    if masked:
        lengths = generator.integers(past + 2, past + LENGTH + 1, (BATCH, 1))
        data["mask"] = (np.arange(past + LENGTH) < lengths).astype(np.int32)
    if past:
        data["past"] = generator.normal(size=state).astype(np.float32)
    expected = make_session(load_source(model)).run(None, data)
    parts = make_session(rewritten(load_source(model), CPU).model).run(None, data)
    for got, wanted in zip(parts, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    tuned = ort_ext.autotune(model, [data] * 2, progress=False)
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    for got, wanted in zip(ort_ext.session(tuned).run(None, data), expected, strict=True):
        assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)


def test_lengths_from_the_fused_embedding_are_a_mask_too() -> None:
    writer = GraphWriter()
    tables = [writer.random("words", 9, WIDTH, scale=1.0), writer.random("positions", LENGTH, WIDTH), ""]
    norm = [writer.constant("gain", np.ones(WIDTH)), writer.random("shift", WIDTH)]
    embedding = ["ids", "", *tables, *norm, "mask"]
    x = writer.add("EmbedLayerNormalization", *embedding, name="embed", outputs=2, domain="com.microsoft", epsilon=1e-5)
    projection = [writer.random("weight", WIDTH, 3 * WIDTH), writer.random("bias", 3 * WIDTH)]
    writer.add("Attention", x, *projection, "embed.out1", name="attention", domain="com.microsoft", num_heads=HEADS)
    writer.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        writer.nodes,
        "fused",
        [helper.make_tensor_value_info(name, TensorProto.INT32, ["n", "s"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "s", WIDTH])],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    source = load_source(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    parts = rewritten(source, CPU)
    assert "MultiHeadAttention" in [node.op_type for node in parts.nodes]
    mask = np.asarray([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]], np.int32)
    given = {"ids": np.random.default_rng(0).integers(0, 9, mask.shape).astype(np.int32), "mask": mask}
    (expected,), (got,) = (make_session(each).run(None, given) for each in (source, parts.model))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("variant", [{"mask": ["n"]}, {"do_rotary": 1}], ids=str)
def test_what_has_no_such_parts_stays_as_it_is_with_the_reason(variant: dict[str, Any]) -> None:
    graph: Graph = rewritten(load_source(fused(**variant)), CPU)
    assert [node.op_type for node in graph.nodes] == ["Attention"]
    assert "com.microsoft operators stay" in find_operators(graph).skipped["attention"][1]
