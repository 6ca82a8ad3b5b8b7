"""Weights that nodes compute from constants are weights like all others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import WIDTH, GraphWriter, vectors

INTEGER = np.int64


def sliced(graph: GraphWriter) -> list[str]:
    every = graph.random("every", WIDTH, 2 * WIDTH)
    axis = graph.constant("axis", [1], INTEGER)
    ends = [graph.constant(f"end{index}", [index * WIDTH], INTEGER) for index in range(3)]
    return [graph.add("Slice", every, ends[index], ends[index + 1], axis) for index in range(2)]


def split(graph: GraphWriter) -> list[str]:
    first = graph.add("Split", graph.random("every", WIDTH, 2 * WIDTH), name="split", outputs=2, axis=1, num_outputs=2)
    return [first, "split.out1"]


def joined(graph: GraphWriter) -> list[str]:
    halves = [graph.random(f"half{index}", WIDTH, WIDTH // 2, scale=0.2) for index in range(2)]
    return [graph.add("Concat", *halves, axis=1)]


def low_rank(graph: GraphWriter) -> list[str]:
    product = graph.add("MatMul", graph.random("a", WIDTH, 4), graph.random("b", 4, WIDTH))
    scaled = graph.add("Mul", product, graph.constant("strength", 0.5))
    return [graph.add("Add", graph.random("base", WIDTH, WIDTH), scaled)]


def normalized(graph: GraphWriter) -> list[str]:
    direction = graph.random("direction", WIDTH, WIDTH)
    norm = graph.add("ReduceL2", direction, graph.constant("axis", [0], INTEGER), keepdims=1)
    return [graph.add("Mul", graph.add("Div", direction, norm), graph.random("gain", 1, WIDTH, scale=1))]


def normalized_by_hand(graph: GraphWriter) -> list[str]:
    direction = graph.random("direction", WIDTH, WIDTH)
    squares = graph.add("ReduceSum", graph.add("Mul", direction, direction), graph.constant("axis", [0], INTEGER))
    return [graph.add("Div", direction, graph.add("Sqrt", squares))]


def gathered(graph: GraphWriter) -> list[str]:
    both = graph.random("both", 2, WIDTH, WIDTH, scale=0.2)
    return [graph.add("Gather", both, graph.constant(f"index{index}", index, INTEGER)) for index in range(2)]


def shared_and_turned(graph: GraphWriter) -> list[str]:
    negative = graph.add("Neg", graph.random("w", WIDTH, WIDTH))
    return [negative, graph.add("Transpose", negative, perm=[1, 0])]


WAYS = (sliced, split, joined, low_rank, normalized, normalized_by_hand, gathered, shared_and_turned)


def model(make: Callable[[GraphWriter], list[str]]) -> ModelProto:
    graph = GraphWriter()
    x = "x"
    for index, weight in enumerate(make(graph)):
        x = graph.add("Tanh", graph.add("MatMul", x, weight, name=f"fc{index}"))
    return graph.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


def check(proto: ModelProto, data: list[np.ndarray]) -> None:
    """All products are quantized, and fp32 and integers compute what the model does."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": data[0]})
    tuned = ort_ext.autotune(proto, data, progress=False)
    assert tuned.source is not None
    (floats,) = make_session(tuned.source).run(None, {"x": data[0]})
    assert floats.shape == expected.shape
    np.testing.assert_allclose(floats, expected, rtol=1e-4, atol=1e-5)
    products = [node.name for node in proto.graph.node if node.name.startswith("fc")]
    assert [name for name, each in tuned.recipe.operators.items() if each.config.is_quantized] == products
    for form in ("qdq", "cpu"):
        (integers,) = ort_ext.session(tuned, form=form).run(None, {"x": data[0]})
        assert np.linalg.norm(integers - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("make", WAYS, ids=lambda make: make.__name__)
def test_a_weight_computed_from_constants_is_quantized(make: Callable[[GraphWriter], list[str]]) -> None:
    check(model(make), vectors())


@pytest.mark.parametrize("ones", [1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_a_matrix_with_leading_ones_is_a_matrix(ones: int, turned: bool) -> None:
    graph = GraphWriter()
    weight = graph.random("w", *(1,) * ones, WIDTH, WIDTH, scale=0.2)
    if turned:
        weight = graph.add("Transpose", weight, perm=[*range(ones), ones + 1, ones])
    graph.add("MatMul", "x", weight, name="fc")
    rank = 2 + ones
    proto = graph.model({"x": (TensorProto.FLOAT, ["n", *["t"] * (rank - 2), WIDTH])}, rank)
    check(proto, vectors(8, 4, *(3,) * (rank - 2), WIDTH))


def test_a_matrix_that_adds_a_dimension_is_a_stack_of_one() -> None:
    graph = GraphWriter()
    graph.add("MatMul", "x", graph.random("w", 1, WIDTH, 5), name="fc1")
    graph.add("MatMul", graph.nodes[-1].output[0], graph.random("v", 5, 5), name="fc2")
    proto = graph.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 3)
    proto.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    check(proto, vectors())


def test_random_weights_stay_random() -> None:
    graph = GraphWriter()
    noise = graph.add("RandomNormalLike", graph.random("like", WIDTH, WIDTH))
    graph.add("MatMul", "x", noise, name="fc")
    source = load_source(graph.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2))
    assert "RandomNormalLike" in {node.op_type for node in source.proto.graph.node}
