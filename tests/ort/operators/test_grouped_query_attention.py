"""GroupQueryAttention has no weights of its own; the projections before and behind it are quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from inc_autotune import ort_ext
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import WIDTH, GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

HEADS, KEY_HEADS, SIZE, BATCH, LENGTH = 4, 2, 8, 2, 6
KEYS = KEY_HEADS * SIZE


def decoder(packed: bool) -> ModelProto:
    """`x` [n, s, 32] through projections, of query, key and value each or together, attention, and another one."""
    writer = GraphWriter()
    sizes = {"qkv": WIDTH + 2 * KEYS} if packed else {"query": WIDTH, "key": KEYS, "value": KEYS}
    projected = [
        writer.add("MatMul", "x", writer.random(f"{name}.weight", WIDTH, size, scale=0.3), name=name)
        for name, size in sizes.items()
    ]
    projected += [""] * (3 - len(projected))
    inputs = [*projected, "past.key", "past.value", "lengths", "total"]
    attention = writer.add(
        "GroupQueryAttention",
        *inputs,
        name="attention",
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=KEY_HEADS,
    )
    writer.nodes[-1].output.extend(["present.key", "present.value"])
    writer.add("MatMul", attention, writer.random("out.weight", WIDTH, WIDTH, scale=0.3), name="out")
    writer.nodes[-1].output[0] = "y"
    cache = TensorProto.FLOAT, ["n", KEY_HEADS, "t", SIZE]
    inputs_of_graph: list[tuple[str, int, list[Any]]] = [
        ("x", TensorProto.FLOAT, ["n", "s", WIDTH]),
        ("past.key", TensorProto.FLOAT, ["n", KEY_HEADS, "p", SIZE]),
        ("past.value", TensorProto.FLOAT, ["n", KEY_HEADS, "p", SIZE]),
        ("lengths", TensorProto.INT32, ["n"]),
        ("total", TensorProto.INT32, []),
    ]
    outputs = [("y", TensorProto.FLOAT, ["n", "s", WIDTH]), ("present.key", *cache), ("present.value", *cache)]
    inputs_made, outputs_made = (
        [helper.make_tensor_value_info(*each) for each in described] for described in (inputs_of_graph, outputs)
    )
    graph = helper.make_graph(writer.nodes, "decoder", inputs_made, outputs_made, writer.initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def feeds() -> list[dict[str, Any]]:
    empty = np.zeros((BATCH, KEY_HEADS, 0, SIZE), np.float32)
    rest = {
        "past.key": empty,
        "past.value": empty,
        "lengths": np.full(BATCH, LENGTH - 1, np.int32),
        "total": np.array(LENGTH, np.int32),
    }
    return [{"x": each, **rest} for each in vectors(4, BATCH, LENGTH, WIDTH)]


@pytest.mark.parametrize("packed", [False, True], ids=["apart", "together"])
def test_projections_are_found_and_share_their_input(packed: bool) -> None:
    model, data = decoder(packed), feeds()
    arguments = {"smoothquant_args": {"alpha": 0.5}, "op_name_dict": {"out": {"weight": {"dtype": ["fp32"]}}}}
    tuned = ort_ext.autotune(model, data, progress=False, **arguments)
    before = ["qkv"] if packed else ["query", "key", "value"]
    found = {each.name: (each.type, each.dtype, each.alpha) for each in tuned.tuning_result.operators}
    assert found == {**dict.fromkeys(before, ("MatMul", "int8", 0.5)), "out": ("MatMul", "fp32", None)}
    kinds = [node.op_type for node in ort_ext.convert(tuned).graph.node]
    assert [kinds.count(kind) for kind in ("Mul", "QuantizeLinear", "GroupQueryAttention")] == [1, 1, 1]
    expected = make_session(load_source(model)).run(None, data[0])
    for wanted, got in zip(expected, ort_ext.session(tuned).run(None, data[0]), strict=True):
        assert np.linalg.norm(got - wanted) < 0.04 * np.linalg.norm(wanted)
