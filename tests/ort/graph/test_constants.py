"""Weights that several operators share, and weights that nodes compute from constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from tests.ort.small_models import VOCABULARY, WIDTH, GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

LAYERS = 6
WEIGHT_BYTES = WIDTH * WIDTH
PLAIN = {"smooth_quant": False}
KIND = {"x": (TensorProto.FLOAT, ["n", WIDTH])}


def tune(model: ModelProto, data: list[Any] | None = None, **arguments: Any) -> ort_ext.TunedModel:
    data = vectors() if data is None else data
    tuned = ort_ext.autotune(model, data, progress=False, **arguments)
    inputs = data[0] if isinstance(data[0], dict) else {"x": data[0]}
    expected = make_session(load_source(model)).run(None, inputs)[0]
    for form in ("qdq", "cpu"):
        onnx.checker.check_model(ort_ext.convert(tuned, form))
        got = ort_ext.session(tuned, form=form).run(None, inputs)[0]
        assert np.linalg.norm(got - expected) < 0.1 * np.linalg.norm(expected)
        again = ort_ext.convert(ort_ext.apply_recipe(model, tuned.recipe), form)
        assert again.SerializeToString(deterministic=True) == ort_ext.convert(tuned, form).SerializeToString(
            deterministic=True
        )
    return tuned


def quantized(tuned: ort_ext.TunedModel) -> set[str]:
    return {name for name, each in tuned.recipe.operators.items() if each.config.is_quantized}


def shared(op_type: str, read: Callable[[GraphWriter, str, int], str]) -> ModelProto:
    """Layers that all read the one weight, each in its own way."""
    writer = GraphWriter()
    weight, bias = writer.random("shared.weight", WIDTH, WIDTH), writer.random("shared.bias", WIDTH)
    x = "x"
    for layer in range(LAYERS):
        inputs = [x, read(writer, weight, layer), *([bias] if op_type == "Gemm" else [])]
        x = writer.add("Tanh", writer.add(op_type, *inputs, name=f"fc{layer}"), name=f"tanh{layer}")
    return writer.model(KIND, 2)


READERS: dict[str, Callable[[GraphWriter, str, int], str]] = {
    "directly": lambda writer, weight, layer: weight,
    "by other names": lambda writer, weight, layer: writer.add("Identity", weight, name=f"copy{layer}"),
    "transposed": lambda writer, weight, layer: writer.add("Transpose", weight, name=f"turn{layer}", perm=[1, 0]),
}


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize(
    "arguments", [{"recipes": PLAIN}, {"approach": "weight_only"}, {"smoothquant_args": {"alpha": 0.5}}], ids=str
)
def test_a_weight_that_operators_share_is_stored_once(how: str, arguments: dict[str, Any]) -> None:
    """Smoothed too: all its readers are smoothed by the one scale."""
    tuned = tune(shared("MatMul", READERS[how]), **arguments)
    assert len(quantized(tuned)) == LAYERS
    stored = [each for each in ort_ext.convert(tuned).graph.initializer if np.prod(each.dims) >= WEIGHT_BYTES]
    assert len(stored) == 1
    assert stored[0].data_type in (TensorProto.INT8, TensorProto.UINT8)


def test_layers_that_share_a_weight_get_no_alphas_of_their_own() -> None:
    tuned = tune(shared("MatMul", READERS["directly"]), smoothquant_args={"alpha": "auto"})
    assert len({each.config.alpha for each in tuned.recipe.operators.values()}) == 1


def test_gemms_that_stay_gemms_share_their_weight_too() -> None:
    tuned = tune(shared("Gemm", READERS["directly"]), recipes={"gemm_to_matmul": False, **PLAIN})
    assert len(quantized(tuned)) == LAYERS
    stored = [each for each in ort_ext.convert(tuned).graph.initializer if np.prod(each.dims) >= WEIGHT_BYTES]
    assert len(stored) == 1


def test_a_matrix_read_both_ways_is_stored_both_ways() -> None:
    writer = GraphWriter()
    weight = writer.random("w", WIDTH, WIDTH)
    x = writer.add("Tanh", writer.add("Gemm", "x", weight, name="plain"), name="tanh")
    writer.add("Gemm", x, weight, name="turned", transB=1)
    assert len(quantized(tune(writer.model(KIND, 2)))) == 2


def test_convolutions_share_a_kernel() -> None:
    writer = GraphWriter()
    kernel, bias = writer.random("kernel", 8, 8, 3, 3, scale=0.1), writer.random("bias", 8)
    x = "x"
    for layer in range(3):
        conv = writer.add("Conv", x, kernel, bias, name=f"conv{layer}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = writer.add("Relu", conv, name=f"relu{layer}")
    model = writer.model({"x": (TensorProto.FLOAT, ["n", 8, 6, 6])}, 4)
    tuned = tune(model, vectors(8, 4, 8, 6, 6))
    assert len(quantized(tuned)) == 3
    assert sum(np.prod(each.dims) == 8 * 8 * 9 for each in ort_ext.convert(tuned).graph.initializer) == 1


def tied() -> ModelProto:
    """An embedding whose table, transposed, is the last weight too."""
    writer = GraphWriter()
    table = writer.random("table", VOCABULARY, WIDTH, scale=1.0)
    words = writer.add("Gather", table, "ids", name="words")
    hidden = writer.add("Tanh", writer.add("MatMul", words, writer.random("w", WIDTH, WIDTH), name="fc"), name="tanh")
    writer.add("MatMul", hidden, writer.add("Transpose", table, name="turn"), name="head")
    return writer.model({"ids": (TensorProto.INT64, ["n", "sequence"])}, 3)


TOKENS = [{"ids": np.arange(40).reshape(8, 5)}] * 2


def test_a_tied_head_is_quantized_and_the_table_stays() -> None:
    tuned = tune(tied(), TOKENS)
    assert quantized(tuned) == {"fc", "head"}
    names = {node.name for node in ort_ext.convert(tuned).graph.node}
    assert "turn" not in names


def test_a_tied_head_in_fp32_stores_the_table_once() -> None:
    tuned = tune(tied(), TOKENS, op_name_dict={"head": {"weight": {"dtype": ["fp32"]}}})
    assert quantized(tuned) == {"fc"}
    written = ort_ext.convert(tuned).graph
    assert [each.name for each in written.initializer if np.prod(each.dims) == VOCABULARY * WIDTH] == ["table"]
    assert "turn" in {node.name for node in written.node}


def weight_through(op_type: str, value: np.ndarray, *constants: np.ndarray, **attributes: Any) -> ModelProto:
    writer = GraphWriter()
    names = [writer.constant("stored", value, value.dtype)]
    names += [writer.constant(f"given{index}", each, each.dtype) for index, each in enumerate(constants)]
    writer.add("MatMul", "x", writer.add(op_type, *names, name="prepare", **attributes), name="fc")
    return writer.model(KIND, 2)


W = np.random.default_rng(0).normal(size=(WIDTH, 8)).astype(np.float32)
PREPARED: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
    "Identity": ("Identity", [W], {}),
    "Transpose": ("Transpose", [np.ascontiguousarray(W.T)], {}),
    "Reshape": ("Reshape", [W.reshape(4, -1), np.asarray([-1, 8])], {}),
    "Reshape that keeps": ("Reshape", [W.reshape(WIDTH, 2, 4), np.asarray([0, 8])], {}),
    "Flatten": ("Flatten", [W.reshape(WIDTH, 2, 4)], {}),
    "Squeeze": ("Squeeze", [W[None], np.asarray([0])], {}),
    "Squeeze all": ("Squeeze", [W[None, :, None]], {}),
    "Unsqueeze": ("Unsqueeze", [W[:, 0], np.asarray([-1])], {}),
    "Cast": ("Cast", [W.astype(np.float64)], {"to": TensorProto.FLOAT}),
    "Mul": ("Mul", [W, np.float32([3])], {}),
    "Div": ("Div", [W, np.linspace(1, 2, 8, dtype=np.float32)], {}),
    "Add": ("Add", [W, np.float32(0.5)], {}),
    "Sub": ("Sub", [W, W[:1]], {}),
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_weight_behind_a_node_is_a_weight(case: str) -> None:
    op_type, values, attributes = PREPARED[case]
    model = weight_through(op_type, *values, **attributes)
    graph = Graph(load_source(model))
    model.graph.output.append(onnx.helper.make_tensor_value_info("prepare.out", TensorProto.FLOAT, None))
    expected = make_session(load_source(model)).run(["prepare.out"], {"x": vectors()[0]})[0]
    assert graph.shape("prepare.out") == expected.shape
    np.testing.assert_array_equal(graph.constant("prepare.out"), expected)
    assert list(find_operators(graph).found) == ["fc"]


def test_a_transposed_weight_is_no_copy() -> None:
    graph = Graph(load_source(weight_through("Transpose", np.ascontiguousarray(W.T))))
    assert np.shares_memory(graph.constant("prepare.out"), graph.constant("stored"))


@pytest.mark.parametrize(
    ("op_type", "values"),
    [("RandomNormalLike", [W]), ("Reshape", [W, np.asarray([3, 5])]), ("Bernoulli", [np.clip(W, 0, 1)])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_else_computes_a_weight_is_named(op_type: str, values: list[np.ndarray]) -> None:
    writer = GraphWriter()
    names = [writer.constant(f"given{index}", each, each.dtype) for index, each in enumerate(values)]
    prepared = writer.add(op_type, *names, name="prepare")
    for name in ("matmul", "gemm"):
        writer.add("MatMul" if name == "matmul" else "Gemm", "x", prepared, name=name)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            writer.nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
            [onnx.helper.make_tensor_value_info("gemm.out", TensorProto.FLOAT, None)],
            writer.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    skipped = find_operators(Graph(load_source(proto))).skipped
    reason = f"its weight is computed from constants by a {op_type}"
    assert skipped == {"matmul": ("MatMul", reason), "gemm": ("Gemm", reason)}


def test_a_bias_behind_a_node_stands_before_its_reader() -> None:
    """MatMul and Add become one node where the MatMul stood, before the node that makes the bias."""
    writer = GraphWriter()
    product = writer.add("MatMul", "x", writer.random("w", WIDTH, 8), name="fc")
    bias = writer.add("Reshape", writer.random("b", 1, 8), writer.constant("shape", [8], np.int64), name="flat")
    writer.add("Add", product, bias, name="add")
    tuned = tune(writer.model(KIND, 2))
    assert quantized(tuned) == {"fc"}
    written = ort_ext.convert(tuned, "cpu")
    assert [node.op_type for node in written.graph.node] == ["Reshape", "QuantizeLinear", "MatMulIntegerToFloat"]


def test_constants_in_a_file_are_computed_when_they_are_asked_for(tmp_path: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(shared("MatMul", READERS["transposed"]), path, save_as_external_data=True, location="weights.bin")
    in_memory, in_file = (ort_ext.convert(tune_path(model)) for model in (onnx.load(path), path))
    values = [
        {each.name: numpy_helper.to_array(each) for each in model.graph.initializer} for model in (in_memory, in_file)
    ]
    assert values[0].keys() == values[1].keys()
    assert all(np.array_equal(value, values[1][name]) for name, value in values[0].items())


def tune_path(model: Any) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, vectors(), progress=False)
