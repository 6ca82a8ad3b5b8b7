"""The two forms of a quantized graph: which operators they hold, and that they compute what the plan says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import fake_quantize, quantization_parameters
from inc_autotune.core.quantization.weight_grid import weight_parameters
from inc_autotune.graphs.plan import OperatorCalibration
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.ort_ext.calibration.plan import QuantizationPlan
from inc_autotune.ort_ext.emission.build import build_model
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.graph_model import GraphModel, embedded
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from inc_autotune.ort_ext.operators.rewriting.gelu import rewrite_gelu
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from inc_autotune.ort_ext.target.settings import check_form_name
from tests.ort.graph.test_graph import optimized_types
from tests.ort.small_models import WIDTH, GraphWriter, conv_net, linear_chain, transformer_block, vectors

FLOAT = TensorConfig("fp32")
WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")
ACTIVATION = TensorConfig("uint8", "asym", "per_tensor", "minmax")
STATIC = OpConfig(WEIGHT, ACTIVATION, "static")
DYNAMIC = OpConfig(WEIGHT, ACTIVATION, "dynamic")
RANGE = (-3.0, 3.5)


def weight_only(dtype: str) -> OpConfig:
    return OpConfig(TensorConfig(dtype, "sym", "per_channel", "minmax"), FLOAT, "weight_only")


def single(bias: bool = True, gemm: bool = False) -> onnx.ModelProto:
    writer = GraphWriter()
    if gemm:
        writer.add("Gemm", "x", writer.random("w", 48, WIDTH, scale=0.2), writer.random("b", 48), name="op", transB=1)
    else:
        product = writer.add("MatMul", "x", writer.random("w", WIDTH, 48), name="op")
        if bias:
            writer.add("Add", writer.random("b", 48), product, name="bias")
    return writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


def build(model: onnx.ModelProto, configs, form=CPU, limits=RANGE, reduce_range=False, outputs=None) -> GraphModel:
    graph = rewrite_gelu(Graph(load_source(model)), form)
    calibrations = {
        name: OperatorCalibration(limits if config.approach == "static" else None, reduce_range=reduce_range)
        for name, config in configs.items()
    }
    plan = QuantizationPlan(configs, calibrations, outputs or {})
    built = build_model(graph, find_operators(graph), plan, form, WeightCache())
    onnx.checker.check_model(embedded(built))
    return built


def types(model: GraphModel) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def run(model, x) -> np.ndarray:
    return Candidate(model).session.run(None, {"x": x})[0]


def expected(model: onnx.ModelProto, x: np.ndarray, config: OpConfig, limits=RANGE, reduce_range=False) -> np.ndarray:
    """The operator computed by hand from fake-quantized values."""
    source = load_source(model)
    weight = source.weights["w"]
    matrix = weight if weight.shape[0] == 48 else weight.T
    parameters = weight_parameters(matrix, config.weight, framework="onnxruntime", reduce_range=reduce_range)
    matrix = fake_quantize(matrix, parameters, 0 if parameters.scale.ndim else None)
    if config.approach == "dynamic":
        limits = (float(x.min()), float(x.max()))
    if config.approach != "weight_only":
        activation = config.activation
        x = fake_quantize(
            x,
            quantization_parameters(
                *np.float32(limits), dtype=activation.dtype, scheme=str(activation.scheme), framework="onnxruntime"
            ),
        )
    return x @ matrix.T + source.weights.get("b", 0)


@pytest.mark.parametrize("form", [CPU, QDQ], ids=lambda form: form.name)
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        STATIC,
        DYNAMIC,
        OpConfig(TensorConfig("int8", "sym", "per_tensor", "minmax"), ACTIVATION, "static"),
        OpConfig(TensorConfig("uint8", "asym", "per_channel", "minmax"), ACTIVATION, "static"),
        OpConfig(TensorConfig("uint8", "asym", "per_channel", "minmax"), ACTIVATION, "dynamic"),
        OpConfig(WEIGHT, TensorConfig("uint8", "sym", "per_tensor", "minmax"), "static"),
        OpConfig(
            TensorConfig("int4", "sym", "per_channel", "minmax"),
            TensorConfig("uint5", "asym", "per_tensor", "minmax"),
            "static",
        ),
    ],
    ids=lambda config: (
        f"{config.approach}-{config.weight.dtype}-{config.weight.granularity}-{config.activation.dtype}-{config.activation.scheme}"
    ),
)
def test_a_linear_operator_computes_what_its_config_says(form, gemm, config):
    model, x = single(gemm=gemm), vectors(1, 64)[0]
    got = run(build(model, {"op": config}, form), x)
    np.testing.assert_allclose(got, expected(model, x, config), rtol=1e-3, atol=1e-4)


def test_without_vnni_weights_keep_to_seven_bits():
    built = build(single(), {"op": STATIC}, reduce_range=True)
    assert np.abs(built.weights["w.quantized"]).max() <= 64
    x = vectors(1, 64)[0]
    np.testing.assert_allclose(run(built, x), expected(single(), x, STATIC, reduce_range=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.01), ("int6", 0.05), ("int4", 0.15), ("int3", 0.3)])
@pytest.mark.parametrize("form", [CPU, QDQ], ids=lambda form: form.name)
def test_weight_only(form, dtype, error):
    model, x = single(gemm=True), vectors(1, 64)[0]
    built = build(model, {"op": weight_only(dtype)}, form)
    assert types(built) == ["MatMulNBits"]
    reference, got = run(load_source(model), x), run(built, x)
    assert 0 < np.linalg.norm(got - reference) < error * np.linalg.norm(reference)


def test_the_cpu_form_is_one_quantize_and_one_fused_product():
    assert types(build(single(), {"op": STATIC})) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert types(build(single(), {"op": DYNAMIC})) == ["DynamicQuantizeLinear", "MatMulIntegerToFloat"]


@pytest.mark.parametrize("config", [STATIC, DYNAMIC], ids=lambda config: config.approach)
@pytest.mark.parametrize("gemm", [False, True])
def test_the_qdq_form_is_portable_and_fused_by_onnxruntime(gemm, config, tmp_path):
    built = build(linear_chain(gemm=gemm), {"fc1": config, "fc2": config}, QDQ)
    assert {node.domain for node in built.proto.graph.node} == {""}
    assert [each.domain for each in built.proto.opset_import] == [""]
    fused = optimized_types(built, tmp_path)
    assert not fused.keys() & {"MatMul", "MatMulInteger", "Gemm", "FusedGemm"}
    assert fused["MatMulIntegerToFloat"] + fused["DynamicQuantizeMatMul"] == 2


def test_operators_that_read_one_tensor_share_its_quantization():
    names = [f"layer0.attention.{part}" for part in ("query", "key", "value")]
    for form, count in ((CPU, 1), (QDQ, 1)):
        assert types(build(transformer_block(), dict.fromkeys(names, STATIC), form)).count("QuantizeLinear") == count
    mixed = {names[0]: STATIC, names[1]: STATIC, names[2]: DYNAMIC}
    assert types(build(transformer_block(), mixed)).count("DynamicQuantizeLinear") == 1


def conv_configs() -> dict[str, OpConfig]:
    return dict.fromkeys(["stem", "conv1", "conv2"], STATIC)


GRID = ("relu0.out", "relu1.out", "conv2.out", "relu2.out", "average.out")


def conv_ranges() -> dict[str, tuple[float, float]]:
    return {name: (-6.0, 6.0) if name == "conv2.out" else (0.0, 6.0) for name in GRID}


@pytest.mark.parametrize("form", [CPU, QDQ], ids=lambda form: form.name)
def test_convolutions_residuals_and_pooling_run_in_integers(form, tmp_path):
    model = conv_net()
    built = build(model, {**conv_configs(), "head": STATIC}, form, outputs=conv_ranges())
    fused = optimized_types(built, tmp_path)
    assert fused["QLinearConv"] == 3
    assert fused["QLinearAdd"] == fused["QLinearGlobalAveragePool"] == 1
    assert not fused.keys() & {"Conv", "Add", "Relu", "Gemm", "MatMul"}
    x = np.clip(vectors(1, 16, 3, 8, 8)[0], *RANGE)
    reference, got = run(load_source(model), x), run(built, x)
    assert 0 < np.linalg.norm(got - reference) < 0.05 * np.linalg.norm(reference)


def test_a_bias_that_does_not_fit_32_bits_makes_the_weights_coarser():
    """The first channel's weights are tiny and its bias is not: in steps of both scales it exceeds int32."""
    model = conv_net()
    weights = {each.name: each for each in model.graph.initializer}
    kernel = onnx.numpy_helper.to_array(weights["stem.weight"]).copy()
    kernel[0] *= 1e-12
    weights["stem.weight"].CopyFrom(onnx.numpy_helper.from_array(kernel, "stem.weight"))
    bias = onnx.numpy_helper.to_array(weights["stem.bias"]).copy()
    bias[0] = 2.0
    weights["stem.bias"].CopyFrom(onnx.numpy_helper.from_array(bias, "stem.bias"))
    built = build(model, {"stem": STATIC}, outputs={"relu0.out": (0.0, 6.0)})
    assert built.weights["stem.bias.quantized"][0] > 2**30
    x = np.clip(vectors(1, 16, 3, 8, 8)[0], *RANGE)
    reference = run(load_source(model), x)
    assert np.linalg.norm(run(built, x) - reference) < 0.05 * np.linalg.norm(reference)


def test_names_the_model_has_already_are_not_taken():
    """`op.product` is what the builder would call the product of `op`."""
    writer = GraphWriter()
    product = writer.add("MatMul", "x", writer.random("w", WIDTH, WIDTH), name="op")
    added = writer.add("Add", product, writer.random("b", WIDTH), name="bias")
    writer.nodes.insert(0, onnx.helper.make_node("Neg", ["x"], ["op.product"], "neg"))
    writer.nodes.insert(1, onnx.helper.make_node("Neg", ["x"], ["x.quantized"], "neg2"))
    writer.add("Sum", added, "op.product", "x.quantized", name="sum")
    model = writer.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)
    x = vectors(1, 64)[0]
    reference = run(load_source(model), x)
    for form in (CPU, QDQ):
        got = run(build(model, {"op": STATIC}, form), x)
        assert np.linalg.norm(got - reference) < 0.02 * np.linalg.norm(reference)


def test_an_unknown_form_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"form='qqd'(.|\n)*'qdq', 'cpu'(.|\n)*Did you mean 'qdq'"):
        check_form_name("qqd")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_blocks_of_zeros_add_no_noise(dtype):
    """Weights this small drown in what a scale of 1 leaves of the zeros beside them."""
    writer = GraphWriter()
    weight = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32) * 6e-5
    weight[:128] = 0
    writer.add("MatMul", "x", writer.constant("w", weight), name="op")
    model = writer.model({"x": (TensorProto.FLOAT, ["n", 256])}, 2)
    x = vectors(1, 64, 256)[0]
    reference, got = run(load_source(model), x), run(build(model, {"op": weight_only(dtype)}), x)
    assert np.linalg.norm(got - reference) < {"int8": 0.02, "int4": 0.15}[dtype] * np.linalg.norm(reference)


@pytest.mark.parametrize("zeros", [slice(24), slice(None)], ids=["half", "all"])
def test_channels_of_zeros_keep_their_bias(zeros):
    """In steps of the input it would be zero."""
    model = single(gemm=True)
    for tensor, value in zip(model.graph.initializer, (0.0, 0.005), strict=True):
        changed = onnx.numpy_helper.to_array(tensor).copy()
        changed[zeros] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    built = build(model, {"op": STATIC}, replace(QDQ, gemm_to_matmul=False))
    got = run(built, vectors(1, 64)[0])[:, zeros]
    np.testing.assert_allclose(got, 0.005, rtol=1e-3)
