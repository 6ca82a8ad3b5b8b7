"""What is found in a graph, and what stays when it is written again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inc_autotune.ort_ext.calibration.grid_tensors import GridTensor, find_grid
from inc_autotune.ort_ext.graph.builder import GraphBuilder
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.rewriting.gelu import rewrite_gelu
from inc_autotune.ort_ext.operators.rewriting.separate_sums import separate_residuals
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from tests.ort.small_models import (
    WIDTH,
    GraphWriter,
    conv_net,
    embedding_classifier,
    linear_chain,
    transformer_block,
    vectors,
)


def graph_of(model: onnx.ModelProto) -> Graph:
    return Graph(load_source(model))


def test_operators_of_each_type_are_found_with_their_bias():
    found = find_operators(graph_of(transformer_block())).found
    assert [each.type for each in found.values()] == ["MatMul"] * 6
    up = found["layer0.up"]
    assert (up.bias, up.bias_node, up.output) == ("layer0.up.bias", "layer0.up.add", "layer0.up.add.out")
    head = find_operators(graph_of(conv_net())).found["head"]
    assert (head.type, head.bias, head.transposed) == ("Gemm", "head.bias", True)
    assert find_operators(graph_of(embedding_classifier())).found["words"].input == "input_ids"


def test_a_product_of_two_activations_is_skipped_with_a_reason():
    skipped = find_operators(graph_of(transformer_block())).skipped
    assert set(skipped) == {"layer0.attention.scores", "layer0.attention.mixed"}
    assert skipped["layer0.attention.scores"] == ("MatMul", "multiplies two activations")


@pytest.mark.parametrize(
    ("attributes", "bias_shape", "reason"),
    [({"alpha": 0.5}, (4,), "alpha"), ({"beta": 2.0}, (4,), "beta"), ({}, (1, 4), "shape")],
)
def test_a_gemm_that_is_no_plain_product_is_skipped(attributes, bias_shape, reason):
    writer = GraphWriter()
    writer.add("Gemm", "x", writer.random("w", WIDTH, 4), writer.random("b", *bias_shape), name="gemm", **attributes)
    operators = find_operators(graph_of(writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)))
    assert not operators.found
    assert reason in operators.skipped["gemm"][1]


def test_a_weight_of_three_dimensions_is_a_stack_of_matrices():
    writer = GraphWriter()
    writer.add("MatMul", "x", writer.random("w", 2, WIDTH, 4), name="batched")
    operators = find_operators(graph_of(writer.model({"x": (TensorProto.FLOAT, [2, "n", WIDTH])}, 3)))
    assert operators.found["batched"].layout == "stack"
    skipped = find_operators(graph_of(writer.model({"x": (TensorProto.FLOAT, [2, "n", WIDTH])}, 3)), layouts=("right",))
    assert "stack of matrices" in skipped.skipped["batched"][1]


def test_a_bias_that_something_else_reads_too_is_left_alone():
    writer = GraphWriter()
    product = writer.add("MatMul", "x", writer.random("w", WIDTH, 4), name="product")
    added = writer.add("Add", product, writer.random("b", 4), name="bias")
    writer.add("Mul", product, added, name="last")
    found = find_operators(graph_of(writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2))).found["product"]
    assert (found.bias, found.output) == (None, "product.out")


def gelu_model(order: str) -> onnx.ModelProto:
    """GELU of `x` in one of the orders in which exporters multiply."""
    writer = GraphWriter()
    half, one = writer.constant("half", 0.5), writer.constant("one", 1.0)
    ratio = writer.add("Div", "x", writer.constant("root", np.sqrt(2)))
    if order == "times reciprocal":
        ratio = writer.add("Mul", writer.constant("reciprocal", np.sqrt(0.5)), "x")
    erf = writer.add("Add", one, writer.add("Erf", ratio))
    if order == "half first":
        writer.add("Mul", writer.add("Mul", "x", half), erf)
    elif order == "half last":
        writer.add("Mul", writer.add("Mul", "x", erf), half)
    else:
        writer.add("Mul", "x", writer.add("Mul", half, erf))
    return writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


@pytest.mark.parametrize("order", ["half with erf", "half first", "half last", "times reciprocal"])
def test_gelu_is_rewritten_whatever_its_order(order):
    source = load_source(gelu_model(order))
    x = np.linspace(-4, 4, 4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    expected = Candidate(source).session.run(None, {"x": x})[0]
    fused, ordered = (rewrite_gelu(Graph(source), form).model for form in (CPU, QDQ))
    assert [node.op_type for node in fused.proto.graph.node if node.op_type != "Div"] == ["Gelu"]
    for rewritten in (fused, ordered):
        np.testing.assert_allclose(Candidate(rewritten).session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
    assert {node.domain for node in ordered.proto.graph.node} == {""}


def test_gelu_in_standard_operators_is_fused_by_onnxruntime(tmp_path):
    assert optimized_types(rewrite_gelu(graph_of(gelu_model("half with erf")), QDQ).model, tmp_path) == {"Gelu": 1}


def test_gelu_with_a_root_of_half_precision_is_fused_by_onnxruntime(tmp_path):
    model = gelu_model("half with erf")
    root = next(each for each in model.graph.initializer if each.name.endswith("root"))
    root.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(root).astype(np.float16).astype(np.float32), root.name))
    assert optimized_types(rewrite_gelu(graph_of(model), QDQ).model, tmp_path) == {"Gelu": 1}


def test_what_only_looks_like_gelu_is_left_alone():
    writer = GraphWriter()
    erf = writer.add("Erf", writer.add("Div", "x", writer.constant("two", 2.0)))
    writer.add(
        "Mul", "x", writer.add("Mul", writer.constant("half", 0.5), writer.add("Add", erf, writer.constant("one", 1)))
    )
    model = writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)
    rewritten = rewrite_gelu(graph_of(model), CPU).model
    assert list(rewritten.proto.graph.node) == list(model.graph.node)


def optimized_types(model, folder) -> Counter[str]:
    """Operator types after onnxruntime's own optimization."""
    path = folder / "optimized.onnx"

    def options() -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        return options

    Candidate(model, session_options=options).session.get_inputs()
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_residuals_are_not_fused_into_slow_norms(pre_norm, tmp_path):
    model = onnx.shape_inference.infer_shapes(transformer_block(pre_norm=pre_norm, layers=2))
    source = load_source(model)
    separated = separate_residuals(Graph(source)).model
    assert not separated.proto.graph.value_info
    fused = optimized_types(separated, tmp_path)
    assert fused["LayerNormalization"] == (5 if not pre_norm else 4)
    assert "SkipLayerNormalization" not in fused
    if not pre_norm:
        assert optimized_types(source, tmp_path)["SkipLayerNormalization"] > 0
    x = vectors(1, 2, 6, WIDTH)[0]
    outputs = [Candidate(each).session.run(None, {"x": x})[0] for each in (source, separated)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_a_rewritten_graph_shares_weights_and_drops_what_nothing_reads():
    graph = graph_of(linear_chain())
    builder = GraphBuilder(graph)
    for node in list(graph.nodes)[:1]:
        builder.keep(node)
    replaced = builder.compute("Relu", ["fc1.out"], "fc1.out")
    builder.produce("Identity", [replaced], ["y"], "last")
    built = builder.build()
    assert replaced == "fc1.out_"
    assert [each.name for each in built.proto.graph.initializer] == ["fc1.weight"]
    assert np.shares_memory(built.weights["fc1.weight"], graph.constant("fc1.weight"))


def test_what_the_body_of_an_if_reads_counts_as_read():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["hidden"], ["z"], "inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    writer = GraphWriter()
    product = writer.add("MatMul", "x", writer.random("w", WIDTH, 4), name="product")
    writer.add("Add", product, writer.random("b", 4), name="bias")
    writer.nodes[-1].output[0] = "hidden"
    writer.add("If", writer.constant("condition", True, bool), name="if", then_branch=branch, else_branch=branch)
    graph = graph_of(writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2))
    assert [node.name for node in graph.consumers["hidden"]] == ["if", "if"]
    assert graph.only_consumer("hidden") is None


def grid_of(graph: Graph, *names: str) -> dict[str, GridTensor]:
    found = find_operators(graph).found
    return find_grid(graph, [found[name] for name in names], QDQ)


def test_the_grid_follows_convolutions_through_residual_and_pooling():
    graph = graph_of(conv_net())
    grid = grid_of(graph, "stem", "conv1", "conv2")
    assert list(grid) == ["relu0.out", "relu1.out", "conv2.out", "relu2.out", "pool.out", "average.out"]
    assert grid["pool.out"].same_as == "relu2.out"
    assert grid["average.out"].same_as is None


def test_the_grid_ends_where_a_residual_comes_from_float():
    grid = grid_of(graph_of(conv_net()), "conv1", "conv2")
    assert list(grid) == ["relu1.out", "conv2.out"]


def test_padding_with_another_value_than_zero_leaves_the_grid():
    def padded(value: float) -> Graph:
        writer = GraphWriter()
        conv = writer.add("Conv", "x", writer.random("w", 4, 3, 1, 1), name="conv", kernel_shape=[1, 1])
        pads = writer.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        writer.add("Pad", conv, pads, writer.constant("value", value), name="pad")
        return graph_of(writer.model({"x": (TensorProto.FLOAT, ["n", 3, 4, 4])}, 4))

    assert list(grid_of(padded(0.0), "conv")) == ["conv.out", "y"]
    assert list(grid_of(padded(-1.0), "conv")) == ["conv.out"]


def test_vectors_are_what_the_small_models_take():
    assert Candidate(load_source(linear_chain())).session.run(None, {"x": vectors()[0]})[0].shape == (4, 5)
