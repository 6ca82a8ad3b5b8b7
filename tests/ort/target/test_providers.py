"""Graphs for other execution providers: what they ask for, checked node by node, and run unoptimized on the CPU."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, CapabilityError, RecipeError
from inc_autotune.ort_ext.target.providers import BACKENDS, CPU_BACKEND, find_backend
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.small_models import conv_net, linear_chain, transformer_block, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

MODELS = {
    "convolutions": (conv_net(), vectors(8, 4, 3, 8, 8)),
    "gemms": (linear_chain(gemm=True), vectors()),
    "transformer": (transformer_block(outliers=20.0), vectors(8, 4, 6, 32)),
}
OTHERS = [name for name in BACKENDS if name != CPU_BACKEND.name]
SIGNED = ("onnxrt_cuda_ep", "onnxrt_trt_ep")

for_others = pytest.mark.parametrize("backend", OTHERS)
for_models = pytest.mark.parametrize("model", MODELS)


@cache
def tuned(backend: str, model: str) -> ort_ext.TunedModel:
    proto, data = MODELS[model]
    return ort_ext.autotune(proto, data, backend=backend, sampling_sizes=[32], progress=False)


@cache
def graph(backend: str, model: str) -> QuantizedGraph:
    return QuantizedGraph(ort_ext.convert(tuned(backend, model)))


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


@for_models
@for_others
def test_the_graph_is_standard_and_computes_what_fp32_does(backend, model):
    proto, data = MODELS[model]
    quantized = ort_ext.convert(tuned(backend, model))
    onnx.checker.check_model(quantized)
    assert graph(backend, model).domains == {""}
    x = np.concatenate(data)
    reference, got = run(proto, x), run(quantized, x)
    assert 0 < np.linalg.norm(got - reference) < 0.1 * np.linalg.norm(reference)


@for_models
@for_others
def test_types_zero_points_and_axes(backend, model):
    found = graph(backend, model)
    assert len(found.of_kind("weight")) == {"convolutions": 4, "gemms": 2, "transformer": 6}[model] + (
        6 if backend == "onnxrt_qnn_ep" and model == "transformer" else 0
    )
    for pair in found.of_kind("activation"):
        assert pair.dtype == (np.int8 if backend in SIGNED else np.uint8)
        assert pair.scale.ndim == 0
        if backend in SIGNED:
            assert pair.zero_point == 0
    for pair in found.of_kind("weight"):
        reader = found.nodes[pair.readers[0]].op_type
        if backend == "onnxrt_qnn_ep" and reader != "Conv":
            assert (pair.dtype, pair.scale.ndim) == (np.uint8, 0)
            continue
        assert pair.dtype == np.int8
        assert not pair.zero_point.any()
        if backend == "onnxrt_dml_ep":
            assert pair.scale.ndim == 0
        else:
            assert pair.axis == (1 if reader == "MatMul" else 0)
            assert pair.scale.shape == (pair.stored.shape[pair.axis],)


@for_models
@for_others
def test_biases(backend, model):
    found = graph(backend, model)
    nodes = [node for node in found.nodes.values() if node.op_type in ("Conv", "Gemm")]
    biases = {pair.tensor: pair for pair in found.of_kind("bias")}
    if backend in SIGNED:
        assert not biases
        assert all(found.constants[node.input[2]].dtype == np.float32 for node in nodes)
        return
    assert set(biases) == {node.input[2] for node in nodes}
    pairs = {pair.tensor: pair for pair in found.pairs}
    for node in nodes:
        x, weight, bias = (pairs[name] for name in node.input)
        np.testing.assert_allclose(bias.scale, x.scale * weight.scale, rtol=1e-6)
        assert np.abs(bias.stored.astype(np.int64)).max() < 2**31 - 2**24
        assert bias.zero_point is None


@for_models
@pytest.mark.parametrize("backend", SIGNED)
def test_each_reader_has_a_pair_of_its_own_for_tensorrt_and_cuda(backend, model):
    found = graph(backend, model)
    assert found.of_kind("activation")
    for pair in found.pairs:
        assert len(pair.readers) == 1
    for node in found.nodes.values():
        if node.op_type == "QuantizeLinear":
            assert len(found.readers(node.output[0])) == 1
    if model == "transformer":
        queries = [name for name in found.nodes if name.rpartition(".")[2] in ("query", "key", "value")]
        assert len({found.nodes[name].input[0] for name in queries}) == 3


@for_models
def test_weights_for_tensorrt_are_floats_with_a_pair(model):
    for pair in graph("onnxrt_trt_ep", model).of_kind("weight"):
        assert pair.stored.dtype == np.float32
    for pair in graph("onnxrt_cuda_ep", model).of_kind("weight"):
        assert pair.stored.dtype == np.int8


def test_whose_outputs_are_quantized():
    """`conv2` is added to something, `head` is the output of the model."""
    cpu, trt, qnn = (graph(name, "convolutions") for name in ("onnxrt_cpu_ep", "onnxrt_trt_ep", "onnxrt_qnn_ep"))
    after = {name: found.reader_types(found.nodes["conv2"].output[0]) for name, found in (("cpu", cpu), ("trt", trt))}
    assert after == {"cpu": ["QuantizeLinear"], "trt": ["Add"]}
    assert cpu.producers["y"].op_type != "DequantizeLinear"
    assert qnn.producers["y"].op_type == "DequantizeLinear"


@for_models
def test_all_that_a_qnn_node_reads_and_writes_is_quantized(model):
    found = graph("onnxrt_qnn_ep", model)
    integer = {pair.tensor for pair in found.pairs}
    products = [
        node
        for node in found.nodes.values()
        if node.op_type in ("Conv", "Gemm") or (node.op_type == "MatMul" and node.input[1] in integer)
    ]
    added = [found.nodes[name] for name in ("layer0.up.add", "layer0.down.add") if name in found.nodes]
    assert len(products) >= 2
    for node in products + added:
        assert set(node.input) <= integer
        output = node.output[0]
        if found.reader_types(output) == ["Relu"]:
            output = found.nodes[found.readers(output)[0]].output[0]
        assert found.reader_types(output) == ["QuantizeLinear"]


@for_others
def test_the_result_says_what_was_not_verified_and_claims_no_speed(backend):
    result = tuned(backend, "gemms").tuning_result
    assert result.speedup is None
    text = str(result)
    assert ("not verified on hardware" in text) == (backend != "onnxrt_openvino_ep")
    assert "evaluated by CPUExecutionProvider" in text
    assert BACKENDS[backend].provider in text


@pytest.mark.parametrize(
    "arguments",
    [{"approach": "dynamic"}, {"op_type_dict": {"MatMul": {"activation": {"quant_mode": ["dynamic"]}}}}],
    ids=["approach", "rule"],
)
def test_openvino_is_offered_nothing_dynamic(arguments):
    proto, data = MODELS["transformer"]
    with pytest.raises(CapabilityError, match=r"dynamic'(.|\n)*capability offers: static"):
        ort_ext.autotune(proto, data, backend="onnxrt_openvino_ep", progress=False, **arguments)


def test_openvino_falls_back_to_float_alone():
    proto, data = MODELS["transformer"]
    scores = iter([1.0, 0.5, 0.5, 0.5, 1.0])
    result = ort_ext.autotune(
        proto,
        data,
        lambda _: next(scores),
        backend="onnxrt_openvino_ep",
        max_trials=4,
        recipes={"smooth_quant": False, "weight_rounding": "nearest", "fast_bias_correction": False},
        sampling_sizes=[32],
        progress=False,
    ).tuning_result
    assert result.fallbacks
    assert {(each.dtype, each.approach) for each in result.operators} == {("fp32", None), ("int8", "static")}


def test_the_cpu_has_no_such_notes():
    assert not [note for note in tuned("onnxrt_cpu_ep", "gemms").tuning_result.notes if "verified" in note]
    assert find_backend("default") is CPU_BACKEND


@for_others
def test_an_evaluation_runs_the_graph_that_is_saved(backend):
    proto, data = MODELS["convolutions"]
    seen = []

    def score(session: onnxruntime.InferenceSession) -> float:
        seen.append(session.run(None, {"x": data[0]})[0])
        return 1.0

    made = ort_ext.autotune(proto, data, score, backend=backend, sampling_sizes=[32], progress=False)
    np.testing.assert_allclose(seen[-1], run(ort_ext.convert(made), data[0]), rtol=1e-3, atol=1e-4)


def test_candidates_run_on_the_provider_where_it_is_there():
    trt = BACKENDS["onnxrt_trt_ep"]
    assert trt.evaluation_providers(["AzureExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert trt.evaluation_providers(both) == ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    assert trt.notes("TensorrtExecutionProvider") == trt.notes("CPUExecutionProvider")[:1]


@for_models
@for_others
def test_a_recipe_gives_the_same_model_again(backend, model):
    proto, _ = MODELS[model]
    recipe = tuned(backend, model).recipe
    assert recipe.settings["backend"] == backend
    again = ort_ext.apply_recipe(proto, type(recipe).from_yaml(recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned(backend, model))


@pytest.mark.parametrize(
    ("backend", "approach", "allowed"),
    [
        ("onnxrt_dnnl_ep", "dynamic", True),
        ("onnxrt_dnnl_ep", "weight_only", False),
        ("onnxrt_trt_ep", "dynamic", False),
        ("onnxrt_qnn_ep", "weight_only", False),
    ],
)
def test_other_approaches_where_standard_operators_can_express_them(backend, approach, allowed):
    proto, data = MODELS["gemms"]
    arguments = {"backend": backend, "approach": approach, "sampling_sizes": [32], "progress": False}
    if not allowed:
        with pytest.raises(CapabilityError, match="nothing to quantize"):
            ort_ext.autotune(proto, data, **arguments)
        return
    found = QuantizedGraph(ort_ext.convert(ort_ext.autotune(proto, data, **arguments)))
    assert found.types.count("DynamicQuantizeLinear") == found.types.count("MatMulInteger") == 2
    assert found.domains == {""}


def test_a_saved_model_keeps_its_backend(tmp_path):
    made = tuned("onnxrt_trt_ep", "transformer")
    ort_ext.save(made, tmp_path / "model.onnx")
    loaded = ort_ext.load(tmp_path / "model.onnx")
    x = MODELS["transformer"][1][0]
    got, expected = (ort_ext.session(each).run(None, {"x": x})[0] for each in (loaded, made))
    np.testing.assert_array_equal(got, expected)


def test_there_is_no_cpu_form_for_another_provider():
    made = tuned("onnxrt_trt_ep", "gemms")
    with pytest.raises(
        ArgumentError, match=r"form='cpu'.*'onnxrt_trt_ep'(.|\n)*Allowed: 'qdq'.*backend='onnxrt_cpu_ep'"
    ):
        ort_ext.convert(made, "cpu")


def test_a_recipe_for_an_unknown_backend_is_refused():
    recipe = tuned("onnxrt_trt_ep", "gemms").recipe
    changed = recipe.to_yaml().replace("onnxrt_trt_ep", "onnxrt_tpu_ep")
    with pytest.raises(RecipeError, match=r"unknown backend 'onnxrt_tpu_ep'.*'onnxrt_trt_ep'"):
        ort_ext.apply_recipe(linear_chain(gemm=True), type(recipe).from_yaml(changed))


def test_bad_arguments():
    proto, data = MODELS["gemms"]
    with pytest.raises(ArgumentError, match=r"backend='onnxrt_trt'(.|\n)*'onnxrt_qnn_ep'(.|\n)*Did you mean"):
        ort_ext.autotune(proto, data, backend="onnxrt_trt")
    with pytest.raises(ArgumentError, match=r"'TensorrtExecutionProvider' is not available.*CPUExecutionProvider"):
        ort_ext.autotune(proto, data, backend="onnxrt_trt_ep", providers=["TensorrtExecutionProvider"])
    with pytest.raises(ArgumentError, match=r"'TensorrtExecutionProvider' is not available"):
        ort_ext.session(tuned("onnxrt_trt_ep", "gemms"), providers=["TensorrtExecutionProvider"])
