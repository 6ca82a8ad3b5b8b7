"""Activations that are no plain [batch, channels, ...] of finite numbers: maps of several sizes, rows of NaN."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.tuned_model import TunedModel
from tests.ort.small_models import WIDTH, Array, GraphWriter

GENERATOR = np.random.default_rng(3)


def decibels(proto: ModelProto, tuned: TunedModel, feed: dict[str, Array]) -> float:
    expected = make_session(load_source(proto)).run(None, feed)[0]
    actual = ort_ext.session(tuned).run(None, feed)[0]
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - actual).sum()))


def int8(tuned: TunedModel) -> list[str]:
    return [name for name, each in tuned.recipe.operators.items() if each.config.is_quantized]


def detector(axis: int) -> ModelProto:
    """`x` [batch, 3, height, width] through two convolutions to places, which are joined along an axis."""
    graph = GraphWriter()
    weights = [graph.random(f"w{index}", 4, 3, 3, 3, scale=0.3) for index in range(2)]
    shape = graph.constant("shape", [0, -1, 4] if axis == 1 else [0, 4, -1], np.int64)
    parts = []
    for index, weight in enumerate(weights):
        part = graph.add("Conv", "x", weight, name=f"head{index}")
        part = graph.add("Transpose", part, perm=[0, 2, 3, 1]) if axis == 1 else part
        parts.append(graph.add("Reshape", part, shape))
    graph.add("Concat", *parts, axis=axis)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 3, "height", "width"])}, 3)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("rules", [{}, {"Conv": {"activation": {"algorithm": ["percentile"]}}}])
def test_images_of_several_sizes_calibrate_a_detector(axis: int, rules: dict[str, object]) -> None:
    proto = detector(axis)
    sizes = [(12, 16), (16, 12), (8, 8), (20, 10)]
    data = [{"x": GENERATOR.normal(size=(1, 3, *size)).astype(np.float32)} for size in sizes]
    tuned = ort_ext.autotune(proto, data, op_type_dict=rules, progress=False)
    assert int8(tuned) == ["head0", "head1"]
    assert decibels(proto, tuned, data[0]) > 25


def masked_rows() -> ModelProto:
    """Rows of `x` are divided by `n`, go through fc1, Relu and fc2, are zeros where `n` is, and go through fc3."""
    graph = GraphWriter()
    mean = graph.add("Div", "x", "n", name="mean")
    hidden = graph.add("Relu", graph.linear(mean, "fc1", WIDTH, 64))
    result = graph.linear(hidden, "fc2", 64, WIDTH)
    real = graph.add("Where", graph.add("Cast", "n", to=TensorProto.BOOL), result, graph.constant("zero", 0.0))
    graph.linear(real, "fc3", WIDTH, 5)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH]), "n": (TensorProto.FLOAT, ["batch", 1])}, 2)


def lengths(*, empty: bool) -> list[dict[str, Array]]:
    data = []
    for _ in range(8):
        x, n = GENERATOR.normal(size=(8, WIDTH)), GENERATOR.integers(2, 5, size=(8, 1))
        if empty:
            x[3], n[3] = 0, 0
        data.append({"x": x.astype(np.float32), "n": n.astype(np.float32)})
    return data


@pytest.mark.parametrize("approach", ["auto", "static", "dynamic", "weight_only"])
def test_who_reads_rows_of_nan_stays_in_fp32_and_says_so(approach: str) -> None:
    proto, data = masked_rows(), lengths(empty=True)
    tuned = ort_ext.autotune(proto, data, approach=approach, progress=False)
    if approach == "weight_only":
        assert int8(tuned) == ["fc1", "fc2", "fc3"]
    else:
        assert int8(tuned) == ["fc3"]
        assert tuned.tuning_result is not None
        assert "NaN or infinity" in tuned.tuning_result.fallbacks["fc1"]
    for feed in (data[0], lengths(empty=False)[0]):
        assert decibels(proto, tuned, feed) > 25


def test_operators_that_rules_keep_in_fp32_may_read_nan() -> None:
    rules = {"fc[12]": {"weight": {"dtype": ["fp32"]}}}
    tuned = ort_ext.autotune(masked_rows(), lengths(empty=True), op_name_dict=rules, progress=False)
    assert int8(tuned) == ["fc3"]


def test_an_operator_asked_for_by_name_gets_its_range_from_the_other_rows() -> None:
    proto, data = masked_rows(), lengths(empty=True)
    rules = {"fc1": {"weight": {"dtype": ["int8"]}}}
    tuned = ort_ext.autotune(proto, data, op_name_dict=rules, progress=False)
    assert int8(tuned) == ["fc1", "fc3"]
    assert decibels(proto, tuned, data[0]) > 25


def test_a_damaged_batch_is_named_where_nothing_else_is_left() -> None:
    data = lengths(empty=False)
    data[1]["x"][2, 5] = np.nan
    proto = masked_rows()
    for node in list(proto.graph.node)[:-2]:
        if node.op_type == "Where":
            node.op_type = "Identity"
            node.input[:] = [node.input[1]]
    with pytest.raises(ModelError, match=r"nothing to quantize.*'mean\.out' holds NaN or infinity in the calibration"):
        ort_ext.autotune(proto, data, progress=False)


def image_model(graph: GraphWriter) -> ModelProto:
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 3, 8, 8])}, 4)


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 0, 6, 6)), (2, (2, 8, 0, 6))])
def test_a_constant_without_elements_is_no_reason_to_fail(axis: int, shape: tuple[int, ...]) -> None:
    graph = GraphWriter()
    hidden = graph.add("Conv", "x", graph.random("w", 8, 3, 3, 3, scale=0.3), name="first")
    hidden = graph.add("Concat", hidden, graph.constant("nothing", np.zeros(shape)), axis=axis)
    graph.add("Conv", hidden, graph.random("v", 8, 8, 1, 1, scale=0.3), name="second")
    proto, data = image_model(graph), [GENERATOR.normal(size=(2, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    tuned = ort_ext.autotune(proto, data, progress=False)
    assert int8(tuned) == ["first", "second"]
    assert decibels(proto, tuned, {"x": data[0]}) > 25


@pytest.mark.parametrize("op_type", ["MatMul", "Conv"])
def test_an_operator_that_only_meets_empty_tensors_stays_in_fp32(op_type: str) -> None:
    graph = GraphWriter()
    shape = (32, 16) if op_type == "MatMul" else (8, 3, 3, 3)
    zero, axis = graph.constant("zero", [0], np.int64), graph.constant("axis", [0], np.int64)
    none = graph.add("Slice", "x", zero, zero, axis)
    weight = graph.random("w", *shape, scale=0.3)
    parts = [graph.add(op_type, read, weight, name=name) for name, read in (("some", "x"), ("none", none))]
    graph.add("Concat", *parts, axis=0)
    size = (4, 32) if op_type == "MatMul" else (4, 3, 8, 8)
    proto = graph.model({"x": (TensorProto.FLOAT, ["batch", *size[1:]])}, len(size))
    data = [GENERATOR.normal(size=size).astype(np.float32) for _ in range(4)]
    tuned = ort_ext.autotune(proto, data, progress=False)
    assert int8(tuned) == ["some"]
    assert tuned.tuning_result is not None
    assert "never had an element" in tuned.tuning_result.fallbacks["none"]
    assert decibels(proto, tuned, {"x": data[0]}) > 25


def two_heads(end: str) -> ModelProto:
    """Boxes up to about 640 and scores up to about 1 from one convolution, joined along the channels."""
    graph = GraphWriter()
    stem = graph.add("Relu", graph.add("Conv", "x", graph.random("w", 16, 3, 3, 3, scale=0.3), name="stem"))
    middle, share = graph.constant("middle", np.full(4, 320)), graph.constant("share", [0.3, 0.5, 0.2])
    boxes = graph.add("Conv", stem, graph.random("boxes.w", 4, 16, 1, 1, scale=12), middle, name="boxes")
    scores = graph.add("Conv", stem, graph.random("scores.w", 3, 16, 1, 1, scale=0.05), share, name="scores")
    joined = graph.add("Concat", boxes, scores, axis=1)
    if end == "reshaped":
        joined = graph.add("Reshape", joined, graph.constant("flat", [0, 7, -1], np.int64))
    elif end == "added":
        joined = graph.add("Add", joined, graph.constant("offset", np.full((1, 7, 1, 1), 0.1)))
    elif end == "pooled":
        joined = graph.add("MaxPool", joined, kernel_shape=[2, 2])
    elif end == "bounded":
        joined = graph.add("Relu", joined)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 3, 8, 8])}, 3 if end == "reshaped" else 4)


@pytest.mark.parametrize("end", ["joined", "reshaped", "added", "pooled", "bounded"])
@pytest.mark.parametrize("backend", ["default", "onnxrt_trt_ep"])
def test_scores_survive_beside_boxes_in_one_output(end: str, backend: str) -> None:
    data = [GENERATOR.normal(size=(2, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    proto = two_heads(end)
    tuned = ort_ext.autotune(proto, data, backend=backend, progress=False)
    assert int8(tuned) == ["stem", "boxes", "scores"]
    expected = make_session(load_source(proto)).run(None, {"x": data[0]})[0][:, 4:]
    actual = ort_ext.session(tuned).run(None, {"x": data[0]})[0][:, 4:]
    assert np.square(actual - expected).sum() < 0.01 * np.square(expected).sum()
