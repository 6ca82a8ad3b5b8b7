"""Convolutional nets as a whole: what runs in integers, and that it computes what fp32 does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.search.candidates import Candidates
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.target.forms import CPU
from tests.ort.graph.test_graph import optimized_types
from tests.ort.small_models import Array, GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

CHANNELS = 8
IMAGES = vectors(8, 4, CHANNELS, 8, 8)


class NetWriter(GraphWriter):
    """Convolutions of 3 x 3 that keep size and number of channels."""

    def conv(self, x: str, name: str, *, bias: bool = True, channels: int = CHANNELS) -> str:
        operands = [self.random(f"{name}.weight", CHANNELS, channels, 3, 3, scale=1.4 * (9 * channels) ** -0.5)]
        operands += [self.random(f"{name}.bias", CHANNELS, scale=0.1)] if bias else []
        return self.add("Conv", x, *operands, name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def clip(self, x: str, name: str, low: float | None, high: float | None) -> str:
        limits = [
            "" if value is None else self.constant(f"{name}.{side}", value)
            for side, value in (("low", low), ("high", high))
        ]
        return self.add("Clip", x, *limits, name=name)

    def batch_norm(self, x: str, name: str, **attributes: Any) -> str:
        positive = np.random.default_rng(len(self.nodes)).uniform(0.5, 2.0, (2, CHANNELS))
        parts = [
            self.constant(f"{name}.gain", positive[0]),
            self.random(f"{name}.shift", CHANNELS, scale=0.2),
            self.random(f"{name}.mean", CHANNELS, scale=0.2),
            self.constant(f"{name}.variance", positive[1]),
        ]
        return self.add("BatchNormalization", x, *parts, name=name, **attributes)

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, values, np.int64)

    def image_model(self, opset: int = 18) -> ModelProto:
        return self.model({"x": (TensorProto.FLOAT, ["batch", CHANNELS, 8, 8])}, 4, opset)


def tune(model: ModelProto) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, IMAGES, progress=False)


def run(model: ModelProto, optimized: bool = True) -> Array:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": IMAGES[0]})[0]


def assert_close(found: Array, expected: Array, limit: float = 0.05) -> None:
    assert np.linalg.norm(found - expected) < limit * np.linalg.norm(expected)


def fused(tuned: ort_ext.TunedModel, folder: Path) -> Counter[str]:
    return optimized_types(tuned.model("qdq"), folder)


# ReLU and Clip


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [(0.0, 6.0, 0), (0.0, 1.0, 0), (None, 2.0, 0), (-1.0, None, 0), (0.5, 6.0, 2)],
    ids=["relu6", "narrow", "no lower limit", "no upper limit", "without zero"],
)
def test_a_clip_is_done_by_the_rounding_to_a_grid_within_its_limits(
    low: float | None, high: float | None, kept: int, tmp_path: Path
) -> None:
    net = NetWriter()
    first = net.clip(net.conv("x", "conv1"), "clip1", low, high)
    net.conv(net.clip(net.conv(first, "conv2"), "clip2", low, high), "conv3")
    model = net.image_model()
    tuned = tune(model)
    assert [node.op_type for node in ort_ext.convert(tuned).graph.node].count("Clip") == kept
    if not kept:
        assert fused(tuned, tmp_path)["QLinearConv"] == 3
    assert_close(run(ort_ext.convert(tuned)), run(model))


def test_limits_that_are_no_constants_are_kept() -> None:
    net = NetWriter()
    conv = net.conv("x", "conv1")
    zero = net.constant("zero", 0.0)
    high = net.add("ReduceMax", net.add("Sigmoid", "x", name="sigmoid"), name="high", keepdims=0)
    net.conv(net.add("Clip", conv, zero, high, name="clip"), "conv2")
    model = net.image_model()
    quantized = ort_ext.convert(tune(model))
    assert "clip" in {node.name for node in quantized.graph.node}
    assert_close(run(quantized), run(model))


def test_what_somebody_else_reads_too_is_clipped_for_them() -> None:
    """The second convolution reads the clipped values, the addition those from before."""
    net = NetWriter()
    conv = net.conv("x", "conv1")
    net.add("Add", net.conv(net.clip(conv, "clip", 0.0, 6.0), "conv2"), conv, name="add")
    model = net.image_model()
    assert_close(run(ort_ext.convert(tune(model))), run(model))


# Batch normalization


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norms_become_part_of_convolutions(bias: bool, tmp_path: Path) -> None:
    net = NetWriter()
    first = net.clip(net.batch_norm(net.conv("x", "conv1", bias=bias), "norm1"), "clip", 0.0, 6.0)
    net.batch_norm(net.conv(first, "conv2", bias=bias), "norm2", epsilon=1e-2)
    model = net.image_model()
    folded = rewritten(load_source(model), CPU)
    assert [node.name for node in folded.nodes] == ["conv1", "clip", "conv2"]
    floats = Candidate(folded.model).session.run(None, {"x": IMAGES[0]})[0]
    np.testing.assert_allclose(floats, run(model), rtol=1e-4, atol=1e-5)
    tuned = tune(model)
    assert fused(tuned, tmp_path) == {"QuantizeLinear": 1, "QLinearConv": 2, "DequantizeLinear": 1}
    assert_close(run(ort_ext.convert(tuned)), run(model))


def test_a_weight_of_two_convolutions_is_folded_for_each() -> None:
    net = NetWriter()
    first = net.batch_norm(net.conv("x", "conv1"), "norm1")
    second = net.add("Conv", first, "conv1.weight", name="conv2", pads=[1, 1, 1, 1])
    third = net.add("Conv", net.batch_norm(second, "norm2"), "conv1.weight", name="conv3", pads=[1, 1, 1, 1])
    net.add("Relu", third, name="relu")
    model = net.image_model()
    folded = Candidate(rewritten(load_source(model), CPU).model).session.run(None, {"x": IMAGES[0]})[0]
    np.testing.assert_allclose(folded, run(model), rtol=1e-4, atol=1e-5)


def test_batch_norms_that_cannot_be_folded_stay() -> None:
    """One whose statistics are those of the batch, one whose convolution something else reads, one behind an Add."""
    net = NetWriter()
    of_batch = net.batch_norm(net.conv("x", "conv1"), "norm1", training_mode=1)
    net.nodes[-1].output.extend(["mean", "variance"])
    shared = net.conv(of_batch, "conv2")
    added = net.add("Add", net.batch_norm(shared, "norm2"), shared, name="add")
    net.batch_norm(added, "norm3")
    model = net.image_model()
    names = [node.name for node in rewritten(load_source(model), CPU).nodes]
    assert [name for name in names if name.startswith("norm")] == ["norm1", "norm2", "norm3"]


# Nodes between convolutions


def shuffled(net: NetWriter, x: str) -> str:
    split = net.add("Reshape", x, net.integers("split", 0, 2, CHANNELS // 2, 8, 8), name="reshape1")
    turned = net.add("Transpose", split, name="transpose", perm=[0, 2, 1, 3, 4])
    return net.add("Reshape", turned, net.integers("joined", 0, CHANNELS, 8, 8), name="reshape2")


def split_and_joined(net: NetWriter, x: str) -> str:
    left = net.add("Split", x, net.integers("sizes", 4, 4), name="split", outputs=2, axis=1)
    return net.add("Concat", net.nodes[-1].output[1], left, name="concat", axis=1)


def resized(net: NetWriter, x: str, mode: str = "nearest") -> str:
    scales = net.constant("scales", [1, 1, 2, 2])
    return net.add("Resize", x, "", scales, name="resize", mode=mode, coordinate_transformation_mode="asymmetric")


def squeezed(net: NetWriter, x: str) -> str:
    axes = net.integers("axes", 2)
    return net.add("Squeeze", net.add("Unsqueeze", x, axes, name="unsqueeze"), axes, name="squeeze")


@pytest.mark.parametrize("between", [shuffled, split_and_joined, resized, squeezed])
def test_what_moves_values_between_convolutions_moves_integers(between: Any, tmp_path: Path) -> None:
    net = NetWriter()
    net.conv(between(net, net.add("Relu", net.conv("x", "conv1"), name="relu")), "conv2")
    model = net.image_model()
    tuned = tune(model)
    types = fused(tuned, tmp_path)
    assert types["QLinearConv"] == 2
    assert types["QuantizeLinear"] == types["DequantizeLinear"] == 1
    assert_close(run(ort_ext.convert(tuned)), run(model))


def test_floats_behind_are_moved_as_floats() -> None:
    net = NetWriter()
    net.add("Softmax", shuffled(net, net.conv("x", "conv1")), name="softmax")
    quantized = ort_ext.convert(tune(net.image_model()))
    assert [node.op_type for node in quantized.graph.node].count("QuantizeLinear") == 2


def test_interpolated_values_are_no_values_of_the_grid() -> None:
    net = NetWriter()
    net.conv(resized(net, net.conv("x", "conv1"), "linear"), "conv2")
    model = net.image_model()
    quantized = ort_ext.convert(tune(model))
    assert_close(run(quantized), run(model))
    assert [node.op_type for node in quantized.graph.node].count("QuantizeLinear") == 4


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1},
        {"dilations": [2, 2]},
    ],
    ids=["padding counts", "dilations"],
)
def test_an_average_without_a_right_integer_kernel_stays_in_floats(attributes: dict[str, Any]) -> None:
    net = NetWriter()
    net.conv(net.add("AveragePool", net.conv("x", "conv1"), name="pool", kernel_shape=[3, 3], **attributes), "conv2")
    model = net.image_model(opset=19)
    assert_close(run(ort_ext.convert(tune(model))), run(model))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("axes", [(2, 3), (-1,)], ids=str)
def test_padding_of_some_axes(mode: str, axes: tuple[int, ...]) -> None:
    net = NetWriter()
    pads = net.integers("pads", *[1] * len(axes), *[2] * len(axes))
    padded = net.add("Pad", net.conv("x", "conv1"), pads, "", net.integers("axes", *axes), name="pad", mode=mode)
    net.conv(padded, "conv2")
    model = net.image_model()
    quantized = ort_ext.convert(tune(model))
    onnx.checker.check_model(quantized, full_check=True)
    assert_close(run(quantized), run(model))
    np.testing.assert_allclose(run(quantized, optimized=False), run(quantized), atol=0.1)


def test_padding_with_zeros_before_a_pool_of_negative_values() -> None:
    net = NetWriter()
    low = net.clip(net.conv("x", "conv1"), "clip", -6.0, -1.0)
    pads, axes = net.integers("pads", 1, 1, 1, 1), net.integers("axes", 2, 3)
    padded = net.add("Pad", low, pads, net.constant("zero", 0.0), axes, name="pad")
    net.conv(net.add("MaxPool", padded, name="pool", kernel_shape=[3, 3]), "conv2")
    model = net.image_model()
    assert_close(run(ort_ext.convert(tune(model))), run(model))


def silu_net(*, gate: bool = False) -> ModelProto:
    """Convolutions with SiLU between them, the first two times; perhaps a gate for each channel, as in EfficientNet."""
    net = NetWriter()
    x = "x"
    for index in range(2):
        x = net.conv(x, f"conv{index}")
        x = net.add("Mul", x, net.add("Sigmoid", x, name=f"sigmoid{index}"), name=f"silu{index}")
    if gate:
        opened = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), "squeeze"), name="opened")
        x = net.add("Mul", x, opened, name="gate")
    x = net.conv(x, "last")
    net.add("Mul", x, net.add("Sigmoid", x, name="sigmoid.last"), name="silu.last")
    return net.image_model()


@pytest.mark.parametrize("gate", [False, True])
def test_activations_in_integers_on_request(gate: bool) -> None:
    model = silu_net(gate=gate)
    arguments = {"progress": False, "recipes": {"integer_activations": True}}
    tuned = ort_ext.autotune(model, IMAGES, **arguments)
    built = ort_ext.convert(tuned)
    by_input = {node.input[0]: node.op_type for node in built.graph.node}
    quantized = {
        node.name
        for node in built.graph.node
        if node.op_type in ("Sigmoid", "Mul") and by_input.get(node.output[0]) == "QuantizeLinear"
    }
    expected = {"sigmoid0", "silu0", "sigmoid1", "silu1"} | ({"opened", "gate"} if gate else set())
    assert quantized == expected  # those behind the last convolution have nothing to gain
    assert_close(run(built), run(model), 0.06)
    assert ort_ext.convert(ort_ext.apply_recipe(model, tuned.recipe)) == built
    usual = ort_ext.convert(ort_ext.autotune(model, IMAGES, progress=False))
    assert sum(node.op_type == "QuantizeLinear" for node in usual.graph.node) < sum(
        node.op_type == "QuantizeLinear" for node in built.graph.node
    )


def test_activations_in_integers_are_tried_where_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = silu_net()
    expected = run(model)

    def closeness(session: onnxruntime.InferenceSession) -> float:
        found = session.run(None, {"x": IMAGES[0]})[0]
        return 1.0 - float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    monkeypatch.setattr(Candidates, "gain", lambda _, assignment, *others: 1.5 if assignment.variant is None else 1.8)
    criterion = {"accuracy_criterion": {"absolute": 0.1}, "progress": False}
    result = ort_ext.autotune(model, IMAGES, closeness, tuning_time=60, **criterion)
    labels = [trial.label for trial in result.tuning_result.trials]
    assert labels[-1].endswith("activations in integers")
    tensors = {name for each in result.recipe.operators.values() for name in each.calibration.get("outputs", {})}
    assert "silu0.out" in tensors
    assert ort_ext.convert(ort_ext.apply_recipe(model, Recipe.from_yaml(result.recipe.to_yaml()))) == ort_ext.convert(
        result
    )
    first = ort_ext.autotune(model, IMAGES, closeness, **criterion)
    assert len(first.tuning_result.trials) == 1
