"""Models that were tuned on a processor with VNNI are computed exactly on one without, and say what they hold."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.graph.initializers import split
from inc_autotune.ort_ext.model.unsigned_weights import with_unsigned_weights
from tests.ort.operators.test_weight_width import images, loud
from tests.ort.processors import pretend, wide_products
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.small_models import WIDTH, GraphWriter, linear_chain, vectors

EXACT_DB = 90.0
"""What rounding in float32 leaves of two ways to compute the same integers."""

BINS_DB = 20 * np.log10(255) - 6
"""What is left where every integer of an activation falls into the next bin, at half of its range."""

LOUD = [np.abs(each) + 1 for each in vectors(4, 8, WIDTH)]
"""Nothing negative, so that uint8 activations are large and their products would saturate."""

LOUD_IMAGES = [np.abs(each) + 4 for each in vectors(4, 4, 8, 8, 8)]


def loud_product(*, gemm: bool = False) -> onnx.ModelProto:
    """A MatMul, or a Gemm, whose weights all are near the largest."""
    graph = GraphWriter()
    weight, bias = loud(48, WIDTH), graph.random("op.bias", 48)
    if gemm:
        graph.add("Gemm", "x", graph.constant("op.weight", weight), bias, name="op", transB=1)
    else:
        product = graph.add("MatMul", "x", graph.constant("op.weight", weight.T), name="op")
        graph.add("Add", product, bias, name="op.add")
    return graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH])}, 2)


def made_with_vnni(monkeypatch: Any, model: onnx.ModelProto, data: list[Any], **arguments: Any) -> ort_ext.TunedModel:
    """A model tuned with VNNI; afterwards the library believes that there is none."""
    pretend(monkeypatch, vnni=True)
    arguments = {"recipes": {"smooth_quant": False}, "sampling_sizes": [16], "progress": False, **arguments}
    tuned = ort_ext.autotune(model, data, **arguments)
    pretend(monkeypatch, vnni=False)
    return tuned


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    return session.run(None, {"x": x})[0]


def options(level: str = "ORT_ENABLE_ALL", **entries: str) -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in entries.items():
        made.add_session_config_entry(f"session.{key}", value)
    return made


def exact(tuned: ort_ext.TunedModel, x: np.ndarray) -> np.ndarray:
    """What the integers of a static model stand for, computed in float32: nothing is fused."""
    model = ort_ext.convert(tuned, "qdq")
    return run(onnxruntime.InferenceSession(model.SerializeToString(), options("ORT_DISABLE_ALL")), x)


@pytest.mark.parametrize("form", ["qdq", "cpu"])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_a_session_computes_wide_weights_exactly(monkeypatch, tmp_path, form, level):
    tuned = made_with_vnni(monkeypatch, loud_product(), LOUD)
    ort_ext.save(tuned, tmp_path / "model.onnx", form)
    loaded = ort_ext.load(tmp_path / "model.onnx")
    for session_options in (options(level), lambda: options(level)):
        found = run(ort_ext.session(loaded, session_options=session_options), LOUD[0])
        assert signal_to_noise_db(exact(tuned, LOUD[0]), found) > EXACT_DB


@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_dynamic_products_are_exact_too(monkeypatch, form):
    recipes = {"smooth_quant": False, "fast_bias_correction": False}
    tuned = made_with_vnni(monkeypatch, loud_product(), LOUD, approach="dynamic", recipes=recipes)
    model, x = ort_ext.convert(tuned, "qdq"), LOUD[0]
    constants = QuantizedGraph(model).constants
    weight = constants["op.weight.quantized"].astype(np.float64) * constants["op.weight.scale"]
    scale = np.float32(x.max()) / np.float32(255)
    expected = np.rint(x / scale) * np.float64(scale) @ weight + constants["op.bias"]
    found = run(ort_ext.session(tuned, form=form), x)
    assert signal_to_noise_db(expected, found) > EXACT_DB


@pytest.mark.parametrize("recipes", [{}, {"gemm_to_matmul": False}, {"add_qdq_pair_to_weight": True}])
def test_gemms_and_weights_with_a_pair_are_exact_too(monkeypatch, recipes):
    tuned = made_with_vnni(monkeypatch, loud_product(gemm=True), LOUD, recipes={"smooth_quant": False, **recipes})
    found = run(ort_ext.session(tuned), LOUD[0])
    assert signal_to_noise_db(exact(tuned, LOUD[0]), found) > EXACT_DB


def test_convolutions_are_exact_and_depthwise_ones_stay_signed(monkeypatch):
    tuned = made_with_vnni(monkeypatch, images(), LOUD_IMAGES)
    assert signal_to_noise_db(exact(tuned, LOUD_IMAGES[0]), run(ort_ext.session(tuned), LOUD_IMAGES[0])) > BINS_DB
    model = GraphModel(*split(ort_ext.convert(tuned), None))
    assert wide_products(model) == ["dense", "head"]
    changed = with_unsigned_weights(model)
    assert not wide_products(changed)
    dtypes = {each.name: each.data_type for each in changed.proto.graph.initializer}
    assert dtypes["depthwise.weight.quantized"] == TensorProto.INT8
    assert dtypes["dense.weight.quantized.unsigned"] == TensorProto.UINT8


def test_the_remedy_for_plain_sessions_works(monkeypatch, tmp_path, caplog):
    tuned = made_with_vnni(monkeypatch, loud_product(), LOUD)
    for form in ("qdq", "cpu"):
        ort_ext.save(tuned, tmp_path / "model.onnx", form)
        ort_ext.load(tmp_path / "model.onnx")
        assert "add_session_config_entry('session.x64quantprecision', '1')" in caplog.text
        caplog.clear()
        plain = onnxruntime.InferenceSession(tmp_path / "model.onnx", options(x64quantprecision="1"))
        assert signal_to_noise_db(exact(tuned, LOUD[0]), run(plain, LOUD[0])) > EXACT_DB


def test_a_recipe_keeps_its_width_and_says_so(monkeypatch, caplog):
    tuned = made_with_vnni(monkeypatch, loud_product(), LOUD)
    with caplog.at_level(logging.WARNING):
        again = ort_ext.apply_recipe(loud_product(), Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert "8 bits" in caplog.text
    assert "Tuned on this processor" in caplog.text
    assert ort_ext.convert(again) == ort_ext.convert(tuned)
    assert signal_to_noise_db(exact(tuned, LOUD[0]), run(ort_ext.session(again), LOUD[0])) > EXACT_DB


@pytest.mark.parametrize(
    ("backend", "words"),
    [("onnxrt_dnnl_ep", "may saturate in DnnlExecutionProvider"), ("onnxrt_trt_ep", ""), ("onnxrt_qnn_ep", "")],
)
def test_models_for_other_providers(monkeypatch, tmp_path, caplog, backend, words):
    tuned = made_with_vnni(monkeypatch, linear_chain(gemm=True), LOUD, backend=backend)
    ort_ext.save(tuned, tmp_path / "model.onnx")
    ort_ext.load(tmp_path / "model.onnx")
    assert bool(caplog.records) is bool(words)
    assert words in caplog.text


def test_where_they_are_exact_wide_weights_stay_as_they_are(monkeypatch, tmp_path, caplog):
    tuned = made_with_vnni(monkeypatch, loud_product(), LOUD)
    ort_ext.save(tuned, tmp_path / "model.onnx")
    pretend(monkeypatch, vnni=True)
    ort_ext.load(tmp_path / "model.onnx")
    assert not caplog.records
    model = GraphModel(*split(ort_ext.convert(tuned), None))
    assert with_unsigned_weights(model) is model


def test_seven_bits_run_as_they_are_everywhere(monkeypatch, tmp_path, caplog):
    pretend(monkeypatch, vnni=False)
    tuned = ort_ext.autotune(loud_product(), LOUD, sampling_sizes=[16], progress=False)
    model = GraphModel(*split(ort_ext.convert(tuned), None))
    assert with_unsigned_weights(model) is model
    ort_ext.save(tuned, tmp_path / "model.onnx")
    for vnni in (False, True):
        pretend(monkeypatch, vnni=vnni)
        found = run(ort_ext.session(ort_ext.load(tmp_path / "model.onnx")), LOUD[0])
        assert signal_to_noise_db(exact(tuned, LOUD[0]), found) > EXACT_DB
        assert not caplog.records
        assert (
            signal_to_noise_db(
                exact(tuned, LOUD[0]), run(onnxruntime.InferenceSession(tmp_path / "model.onnx"), LOUD[0])
            )
            > EXACT_DB
        )


def test_candidates_for_other_hardware_are_judged_by_what_it_will_compute(monkeypatch):
    """The CPU stands in for it, and must not saturate where the hardware does not."""
    seen = []

    def score(session: onnxruntime.InferenceSession) -> float:
        seen.append(run(session, LOUD_IMAGES[0]))
        return 1.0

    pretend(monkeypatch, vnni=False)
    arguments = {"recipes": {"smooth_quant": False}, "sampling_sizes": [16], "progress": False}
    tuned = ort_ext.autotune(images(), LOUD_IMAGES, score, backend="onnxrt_qnn_ep", **arguments)
    assert wide_products(GraphModel(*split(ort_ext.convert(tuned), None)))
    assert signal_to_noise_db(exact(tuned, LOUD_IMAGES[0]), seen[-1]) > BINS_DB
