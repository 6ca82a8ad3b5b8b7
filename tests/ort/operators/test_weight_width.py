"""Weights have as many bits as the kernels of this processor multiply exactly, and say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.search.options import allowed_options, offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.target.providers import BACKENDS, CPU_BACKEND
from tests.ort.processors import pretend
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.small_models import WIDTH, GraphWriter, linear_chain, transformer_block, vectors

CHANNELS = 8
IMAGES = vectors(4, 4, CHANNELS, 8, 8)
ROWS = vectors(4, 8, WIDTH)
PLAIN = {"recipes": {"smooth_quant": False}, "sampling_sizes": [16], "progress": False}


def loud(*shape: int) -> np.ndarray:
    """A weight whose values all are near the largest, of one sign in each output channel."""
    signs = np.where(np.arange(shape[0]) % 2, 1.0, -1.0).reshape(-1, *[1] * (len(shape) - 1))
    return np.random.default_rng(0).uniform(0.8, 1.0, shape) * signs


def images() -> onnx.ModelProto:
    """`dense` and `depthwise` convolutions, and a `head`."""
    graph = GraphWriter()
    x = graph.add("Conv", "x", graph.constant("dense.weight", loud(CHANNELS, CHANNELS, 3, 3) / 72), name="dense")
    weight = graph.constant("depthwise.weight", loud(CHANNELS, 1, 3, 3) / 9)
    x = graph.add("Conv", x, weight, name="depthwise", group=CHANNELS)
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    operands = graph.constant("head.weight", loud(4, CHANNELS)), graph.random("head.bias", 4)
    graph.add("Gemm", x, *operands, name="head", transB=1)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", CHANNELS, 8, 8])}, 2)


def tune(model: onnx.ModelProto, data: Any, **arguments: Any) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, data, **{**PLAIN, **arguments})


def largest(tuned: ort_ext.TunedModel) -> dict[str, int]:
    """The largest integer of each symmetric weight, by the name of its operator."""
    constants = QuantizedGraph(ort_ext.convert(tuned)).constants
    suffix = ".weight.quantized"
    return {
        name.removesuffix(suffix): int(np.abs(value.astype(int)).max())
        for name, value in constants.items()
        if name.endswith(suffix)
    }


def said(tuned: ort_ext.TunedModel) -> str | None:
    entries = {each.key: each.value for each in ort_ext.convert(tuned).metadata_props}
    return entries.get("inc_autotune.weight_bits")


def test_the_width_follows_from_the_kernel(monkeypatch):
    pretend(monkeypatch, vnni=False)
    assert largest(tune(images(), IMAGES)) == {"dense": 64, "depthwise": 127, "head": 64}
    pretend(monkeypatch, vnni=True)
    assert largest(tune(images(), IMAGES)) == {"dense": 127, "depthwise": 127, "head": 127}


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_products_of_matrices_get_seven_bits(monkeypatch, approach):
    pretend(monkeypatch, vnni=False)
    tuned = tune(linear_chain(), ROWS, approach=approach)
    assert set(largest(tuned).values()) == {64}
    assert said(tuned) == "7"


def test_weight_only_products_are_exact_with_eight_bits(monkeypatch):
    """Their integers are stored with 128 added."""
    pretend(monkeypatch, vnni=False)
    tuned = tune(linear_chain(), ROWS, approach="weight_only")
    assert {max(value, 256 - value) for value in largest(tuned).values()} == {255}
    assert said(tuned) is None


@pytest.mark.parametrize(
    ("dtype", "scheme", "bits", "highest"),
    [("int8", "sym", "7", 64), ("uint8", "asym", None, 255), ("int7", "sym", "7", 63), ("int4", "sym", "4", 7)],
)
def test_the_width_follows_from_the_dtype(monkeypatch, dtype, scheme, bits, highest):
    """Unsigned weights are exact, and narrower ones fit as they are."""
    pretend(monkeypatch, vnni=False)
    weight = {"dtype": [dtype], "scheme": [scheme], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    static = {"static": {"MatMul": {"weight": weight, "activation": activation}}}
    capability = [{"version": {"name": "default"}, "fp32": ["*"], dtype: static}]
    tuned = tune(linear_chain(), ROWS, capability=capability, excluded_precisions=["int8"] if dtype != "int8" else [])
    stored = [
        value for name, value in QuantizedGraph(ort_ext.convert(tuned)).constants.items() if name.endswith(".quantized")
    ]
    assert len(stored) == 2
    assert {int(value.max()) for value in stored} == {highest}
    assert said(tuned) == bits


@pytest.mark.parametrize("backend", BACKENDS)
def test_seven_bits_are_for_processors_alone(monkeypatch, backend):
    pretend(monkeypatch, vnni=False)
    tuned = tune(linear_chain(gemm=True), ROWS, backend=backend)
    on_processor = backend in (CPU_BACKEND.name, "onnxrt_dnnl_ep", "onnxrt_openvino_ep")
    for pair in QuantizedGraph(ort_ext.convert(tuned)).of_kind("weight"):
        axis = 0 if pair.axis is None else pair.axis
        stored = pair.stored if pair.stored.dtype != np.float32 else np.moveaxis(pair.stored, axis, -1) / pair.scale
        centre = 0 if pair.zero_point is None else int(pair.zero_point.reshape(-1)[0])
        assert bool(np.abs(stored.astype(np.float64) - centre).max() < 64.5) is on_processor


def test_the_recipe_keeps_the_widths_of_the_processor_it_was_tuned_on(monkeypatch):
    pretend(monkeypatch, vnni=False)
    tuned = tune(images(), IMAGES)
    reduced = {name for name, each in tuned.recipe.operators.items() if each.calibration.get("reduce_range")}
    assert reduced == {"dense", "head"}
    pretend(monkeypatch, vnni=True)
    again = ort_ext.apply_recipe(images(), Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned)
    assert said(again) == "7"
    assert said(tune(images(), IMAGES)) == "8"


def test_the_result_tells_the_width(monkeypatch):
    for vnni in (True, False):
        pretend(monkeypatch, vnni=vnni)
        notes = tune(linear_chain(), ROWS).tuning_result.notes
        assert any("weights use 7 bits" in note for note in notes) is not vnni
    assert not [note for note in tune(linear_chain(), ROWS, approach="weight_only").tuning_result.notes if "7" in note]


def test_smoothing_is_searched_with_the_width_that_is_used(monkeypatch):
    for vnni in (True, False):
        pretend(monkeypatch, vnni=vnni)
        adaptor = OrtAdaptor()
        model = adaptor.candidate(load_source(transformer_block()))
        adaptor.calibrate(model, vectors(4, 4, 6, WIDTH), (16,))
        allowed = allowed_options(
            offered_options(adaptor, model), validate_arguments(strategies=["auto"], backends=["default"])
        )
        groups = adaptor.input_groups(build_space(allowed, adaptor.groups(model)).units, 16)
        assert {group.reduce_range for group in groups} == {not vnni}


def test_trials_of_another_width_are_not_taken_up(monkeypatch):
    digests = set()
    for vnni in (True, False):
        pretend(monkeypatch, vnni=vnni)
        adaptor = OrtAdaptor()
        model = adaptor.candidate(load_source(linear_chain()))
        adaptor.calibrate(model, ROWS, (16,))
        digests.add(adaptor.fingerprint(model))
    assert len(digests) == 2
