"""Operators of ONNX Runtime, each in a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source

from .example import Example

SAMPLES = 4
WIDTH = 16

CONTRIB = "com.microsoft"

WITH_WEIGHT_ONLY = "static, dynamic, weight-only"
NOTHING = "-"

Shape = tuple[int, ...]


def model(
    op_type: str,
    inputs: Sequence[str | Shape],
    shape: Shape,
    *,
    domain: str = "",
    before: Callable[[str], tuple[str, list[Any]]] | None = None,
    **attributes: Any,
) -> Callable[[], Candidate]:
    """A model of one node that reads `x` [batch, *shape].

    Args:
        op_type: of the node.
        inputs: names of what it reads, and shapes of weights.
        shape: of a sample.
        domain: of the operator.
        before: makes nodes that compute what the node reads instead of `x`.
        attributes: of the node.
    """

    def build() -> Candidate:
        generator = np.random.default_rng(0)
        names, weights = [], []
        for index, each in enumerate(inputs):
            if isinstance(each, str):
                names.append(each)
            else:
                names.append(f"w{index}")
                value = (generator.normal(size=each) * 0.2).astype(np.float32)
                weights.append(numpy_helper.from_array(value, f"w{index}"))
        node = helper.make_node(op_type, names, ["y"], op_type.lower(), domain=domain, **attributes)
        return Candidate(load_source(_proto([node], weights, shape)))

    return build


def _proto(nodes: Sequence[Any], weights: Sequence[TensorProto], shape: Shape, data_type: int = 1) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "example",
        [helper.make_tensor_value_info("x", data_type, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def lookup() -> Candidate:
    """Rows of a table."""
    table = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32)
    node = helper.make_node("Gather", ["table", "x"], ["y"], "gather")
    return Candidate(load_source(_proto([node], [numpy_helper.from_array(table, "table")], (6,), TensorProto.INT64)))


def recurrent(op_type: str, gates: int) -> Callable[[], Candidate]:
    """A recurrent layer over [sequence, batch, width], behind a Transpose."""

    def build() -> Candidate:
        generator = np.random.default_rng(0)
        shapes: Mapping[str, Shape] = {"w": (1, gates * 8, WIDTH), "r": (1, gates * 8, 8), "b": (1, 2 * gates * 8)}
        weights = [
            numpy_helper.from_array((generator.normal(size=shape) * 0.2).astype(np.float32), name)
            for name, shape in shapes.items()
        ]
        nodes = [
            helper.make_node("Transpose", ["x"], ["time_first"], "transpose", perm=[1, 0, 2]),
            helper.make_node(op_type, ["time_first", "w", "r", "b"], ["steps"], op_type.lower(), hidden_size=8),
            helper.make_node("Transpose", ["steps"], ["y"], "back", perm=[2, 0, 1, 3]),
        ]
        return Candidate(load_source(_proto(nodes, weights, (6, WIDTH))))

    return build


def numbers(*shape: int) -> Callable[[], Sequence[Any]]:
    """Samples of random numbers."""
    return lambda: [{"x": np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(np.float32)}]


def _ids() -> Sequence[Any]:
    return [{"x": np.random.default_rng(1).integers(0, 20, (SAMPLES, 6))}]


_ROWS, _SEQUENCE, _IMAGE = numbers(WIDTH), numbers(6, WIDTH), numbers(8, 6, 6)

EXAMPLES = (
    Example("MatMul", WITH_WEIGHT_ONLY, model("MatMul", ["x", (WIDTH, WIDTH)], (WIDTH,)), _ROWS),
    Example("MatMul, weight [1, K, N]", NOTHING, model("MatMul", ["x", (1, WIDTH, WIDTH)], (6, WIDTH)), _SEQUENCE),
    Example("MatMul, weight on the left", NOTHING, model("MatMul", [(6, 6), "x"], (6, WIDTH)), _SEQUENCE),
    Example("Gemm", "static", model("Gemm", ["x", (WIDTH, WIDTH), (WIDTH,)], (WIDTH,)), _ROWS),
    Example("Conv", "static, dynamic", model("Conv", ["x", (8, 8, 3, 3)], (8, 6, 6)), _IMAGE),
    Example("Conv, grouped", "static, dynamic", model("Conv", ["x", (8, 4, 3, 3)], (8, 6, 6), group=2), _IMAGE),
    Example("Conv, depthwise", "static, dynamic", model("Conv", ["x", (8, 1, 3, 3)], (8, 6, 6), group=8), _IMAGE),
    Example(
        "Conv, three dimensions",
        "static, dynamic",
        model("Conv", ["x", (8, 8, 3, 3, 3)], (8, 6, 6, 6)),
        numbers(8, 6, 6, 6),
    ),
    Example("ConvTranspose", NOTHING, model("ConvTranspose", ["x", (8, 8, 3, 3)], (8, 6, 6), strides=[2, 2]), _IMAGE),
    Example(
        "ConvTranspose, three dimensions",
        NOTHING,
        model("ConvTranspose", ["x", (8, 8, 3, 3, 3)], (8, 6, 6, 6), strides=[2, 2, 2]),
        numbers(8, 6, 6, 6),
    ),
    Example("LSTM", "dynamic", recurrent("LSTM", 4), _SEQUENCE),
    Example("GRU", NOTHING, recurrent("GRU", 3), _SEQUENCE),
    Example("RNN", NOTHING, recurrent("RNN", 1), _SEQUENCE),
    Example("Einsum", NOTHING, model("Einsum", ["x", (WIDTH, 2, 8)], (6, WIDTH), equation="bsd,dhk->bshk"), _SEQUENCE),
    Example(
        "FusedMatMul",
        NOTHING,
        model("FusedMatMul", ["x", (WIDTH, WIDTH)], (WIDTH,), domain=CONTRIB, transB=1, alpha=0.5),
        _ROWS,
    ),
    Example(
        "Attention, of com.microsoft",
        "static, dynamic",
        model(
            "Attention",
            ["x", (WIDTH, 3 * WIDTH), (3 * WIDTH,)],
            (6, WIDTH),
            domain=CONTRIB,
            num_heads=2,
        ),
        _SEQUENCE,
    ),
    Example("Gather", "weight uint8", lookup, _ids),
    Example("MatMul of two activations", "static", model("MatMul", ["x", "x"], (6, 6)), numbers(6, 6)),
)
