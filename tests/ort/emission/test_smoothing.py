"""Smoothing: exact in fp32, folded only where every reader is smoothed, and better in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.graphs.plan import OperatorCalibration
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.calibration.plan import QuantizationPlan
from inc_autotune.ort_ext.emission import smoothing
from inc_autotune.ort_ext.emission.build import build_model
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from tests.ort.small_models import WIDTH, GraphWriter, linear_chain, transformer_block, vectors

ATTENTION = [f"layer0.attention.{part}" for part in ("query", "key", "value")]
X = vectors(1, 4, 6, WIDTH)[0]


def scale(features: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(size=features)).astype(np.float32)


def smoothed(model: onnx.ModelProto, scales: dict[str, np.ndarray], folding: bool = True, form=CPU) -> GraphModel:
    """The model smoothed, with nothing quantized."""
    graph = rewritten(load_source(model), form)
    calibrations = {name: OperatorCalibration(smoothing=each) for name, each in scales.items()}
    plan = QuantizationPlan({}, calibrations, folding=folding)
    return build_model(graph, find_operators(graph), plan, form, WeightCache())


def count(model: GraphModel, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.proto.graph.node)


def run(model: GraphModel, x: np.ndarray = X) -> np.ndarray:
    return Candidate(model).session.run(None, {"x": x})[0]


def assert_same_function(model: onnx.ModelProto, other: GraphModel, x: np.ndarray = X) -> None:
    np.testing.assert_allclose(run(other, x), run(load_source(model), x), rtol=1e-4, atol=1e-5)


ALL = {**dict.fromkeys(ATTENTION, scale(WIDTH)), "layer0.attention.output": scale(WIDTH, 1)}
ALL |= {"layer0.up": scale(WIDTH, 2), "layer0.down": scale(2 * WIDTH, 3)}


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("form", [CPU, QDQ], ids=lambda form: form.name)
def test_smoothing_keeps_the_fp32_function(pre_norm, folding, form):
    model = transformer_block(pre_norm=pre_norm)
    assert_same_function(model, smoothed(model, ALL, folding, form))


def test_scales_go_into_norms_that_only_smoothed_operators_read():
    """Of the four tensors, those behind the attention and the GELU have nothing to fold into."""
    model = transformer_block()
    plain = count(smoothed(model, {}), "Mul")
    assert count(smoothed(model, ALL), "Mul") == plain + 2
    assert count(smoothed(model, ALL, folding=False), "Mul") == plain + 4


def test_a_norm_that_the_residual_reads_is_left_alone():
    model = transformer_block(pre_norm=False)
    assert count(smoothed(model, ALL), "Mul") == count(smoothed(model, {}), "Mul") + 4


def test_a_norm_that_an_operator_reads_unsmoothed_is_left_alone():
    model, part = transformer_block(), dict.fromkeys(ATTENTION[:2], scale(WIDTH))
    built = smoothed(model, part)
    assert count(built, "Mul") == count(smoothed(model, {}), "Mul") + 1
    assert_same_function(model, built)


def test_two_scales_for_one_tensor_are_two_products():
    model = transformer_block()
    built = smoothed(model, {ATTENTION[0]: scale(WIDTH), ATTENTION[1]: scale(WIDTH, 1), ATTENTION[2]: scale(WIDTH, 1)})
    assert count(built, "Mul") == count(smoothed(model, {}), "Mul") + 2
    assert_same_function(model, built)


@pytest.mark.parametrize("gemm", [True, False])
def test_a_scale_goes_through_a_relu_into_the_linear_before(gemm):
    model = linear_chain(gemm=gemm)
    built = smoothed(model, {"fc1": scale(WIDTH), "fc2": scale(64)})
    assert count(built, "Mul") == 1
    assert_same_function(model, built, vectors()[0])


def single_producer(op_type: str) -> onnx.ModelProto:
    """`x` through one operator with a constant of one value a channel, and a MatMul."""
    writer = GraphWriter()
    weight = writer.constant("weight", scale(WIDTH, 5))
    if op_type == "Mul":
        read = writer.add("Mul", weight, "x", name="producer")
    elif op_type == "RMSNormalization":
        read = writer.add("RMSNormalization", "x", weight, name="producer", axis=-1)
    else:
        read = writer.add("Add", "x", weight, name="producer")
    writer.add("MatMul", read, writer.random("w", WIDTH, 8), name="reader")
    return writer.model({"x": (TensorProto.FLOAT, ["batch", "sequence", WIDTH])}, 3, 23 if "RMS" in op_type else 18)


@pytest.mark.parametrize(("op_type", "folded"), [("Mul", True), ("RMSNormalization", True), ("Add", False)])
def test_what_a_scale_can_be_folded_into(op_type, folded):
    model = single_producer(op_type)
    built = smoothed(model, {"reader": scale(WIDTH)})
    assert (len(built.proto.graph.node) == 2) is folded
    assert_same_function(model, built)


@pytest.mark.parametrize("folding", [True, False])
def test_smoothing_that_cannot_be_folded_must_gain_more(folding):
    adaptor = OrtAdaptor(folding=folding)
    model = Candidate(load_source(transformer_block()))
    size = adaptor.calibrate(model, vectors(4, 4, 6, WIDTH), (16,))
    space = build_space(offered_options(adaptor, model), adaptor.groups(model))
    costly = {group.name: group.least_gain > 1 for group in adaptor.input_groups(space.units, size)}
    folded = {"layer0.attention.query": not folding, "layer0.up": not folding}
    assert costly == {**folded, "layer0.attention.output": True, "layer0.down": True}


def test_the_graph_is_searched_for_what_can_be_divided_once(monkeypatch):
    searches = []
    original = smoothing._divisible
    monkeypatch.setattr(smoothing, "_divisible", lambda *given: searches.append(given) or original(*given))
    adaptor = OrtAdaptor()
    model = Candidate(load_source(transformer_block(layers=3)))
    size = adaptor.calibrate(model, vectors(4, 4, 6, WIDTH), (16,))
    space = build_space(offered_options(adaptor, model), adaptor.groups(model))
    assert len(adaptor.input_groups(space.units, size)) == 12
    assert len(searches) == 1


def test_an_output_of_the_model_is_not_divided():
    writer = GraphWriter()
    writer.norm("x", "norm", WIDTH)
    writer.add("MatMul", "norm.out", writer.random("w", WIDTH, 8), name="reader")
    model = writer.model({"x": (TensorProto.FLOAT, ["batch", "sequence", WIDTH])}, 3)
    model.graph.output.append(onnx.helper.make_tensor_value_info("norm.out", TensorProto.FLOAT, None))
    built = smoothed(model, {"reader": scale(WIDTH)})
    assert count(built, "Mul") == 1
    sessions = [Candidate(each).session for each in (load_source(model), built)]
    expected, actual = (session.run(None, {"x": X}) for session in sessions)
    np.testing.assert_array_equal(actual[1], expected[1])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5)
