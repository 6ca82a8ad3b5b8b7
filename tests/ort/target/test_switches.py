"""Recipes of Intel Neural Compressor: what each of them changes in the graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.model.candidate import Candidate
from tests.ort.graph.test_graph import optimized_types
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.small_models import (
    GraphWriter,
    conv_net,
    embedding_classifier,
    linear_chain,
    sentences,
    transformer_block,
    vectors,
)

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

IMAGES = vectors(8, 4, 3, 8, 8)
PLAIN = {"smooth_quant": False}


def tune(model: onnx.ModelProto, data: Any, recipes: dict[str, Any], **arguments: Any) -> ort_ext.TunedModel:
    arguments = {"sampling_sizes": [32], "progress": False, **arguments}
    return ort_ext.autotune(model, data, recipes={**PLAIN, **recipes}, **arguments)


def graph(tuned: ort_ext.TunedModel) -> QuantizedGraph:
    return QuantizedGraph(ort_ext.convert(tuned))


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def dtypes(tuned: ort_ext.TunedModel) -> dict[str, str]:
    return {each.name: each.dtype for each in tuned.tuning_result.operators}


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [("first_conv_or_matmul_quantization", "stem"), ("last_conv_or_matmul_quantization", "head")],
)
def test_the_first_or_last_product_stays_in_fp32(recipe, kept):
    tuned = tune(conv_net(), IMAGES, {recipe: False})
    assert {name for name, dtype in dtypes(tuned).items() if dtype == "fp32"} == {kept}
    assert tuned.tuning_result.fallbacks[kept] == f"recipes: {recipe} is False"
    weights = {pair.readers[0] for pair in graph(tuned).of_kind("weight")}
    assert weights == {"stem", "conv1", "conv2", "head"} - {kept}
    assert set(dtypes(tune(conv_net(), IMAGES, {recipe: True})).values()) == {"int8"}


def test_one_of_three_that_read_one_tensor_can_be_the_first():
    tuned = tune(transformer_block(), vectors(8, 4, 6, 32), {"first_conv_or_matmul_quantization": False})
    found = dtypes(tuned)
    assert found["layer0.attention.query"] == "fp32"
    assert found["layer0.attention.key"] == found["layer0.attention.value"] == "int8"


def test_a_rule_for_the_name_wins_over_a_recipe():
    rule = {"stem": {"weight": {"dtype": ["int8"]}}}
    tuned = tune(conv_net(), IMAGES, {"first_conv_or_matmul_quantization": False}, op_name_dict=rule)
    assert dtypes(tuned)["stem"] == "int8"


def test_before_all_products_stays_in_fp32():
    model, data = embedding_classifier(), sentences()
    usual = dtypes(tune(model, data, {}, objective="modelsize"))
    tuned = tune(model, data, {"pre_post_process_quantization": False}, objective="modelsize")
    assert usual == {"words": "int8", "fc1": "int8", "fc2": "int8"}
    assert dtypes(tuned) == {**usual, "words": "fp32"}
    assert tuned.tuning_result.fallbacks["words"] == "recipes: pre_post_process_quantization is False"


def pooled_convolutions() -> onnx.ModelProto:
    """`x` through two convolutions with a pooling between them, then another pooling and an average to `y`."""
    writer, x = GraphWriter(), "x"
    for name, channels in (("first", 3), ("second", 4)):
        x = writer.add("Conv", x, writer.random(f"{name}.w", 4, channels, 1, 1), name=name, kernel_shape=[1, 1])
        x = writer.add("MaxPool", x, name=f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])
    writer.add("GlobalAveragePool", x, name="average")
    return writer.model({"x": (TensorProto.FLOAT, ["n", 3, 8, 8])}, 4)


def test_behind_all_products_stays_in_fp32(tmp_path):
    counts = []
    for whether in (True, False):
        tuned = tune(pooled_convolutions(), IMAGES, {"pre_post_process_quantization": whether})
        found = graph(tuned)
        pooled = {name: found.reader_types(f"{name}.pool.out") for name in ("first", "second")}
        counts.append((found.types.count("QuantizeLinear"), pooled["second"]))
        assert found.producers["first.pool.out"].op_type == "DequantizeLinear"
        assert np.isfinite(run(ort_ext.convert(tuned), IMAGES[0])).all()
    # The second pooling and the average are in integers, or not.
    assert counts[0][0] == counts[1][0] + 2
    assert optimized_types(GraphModel(ort_ext.convert(tuned), {}), tmp_path)["GlobalAveragePool"] == 1


@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_a_gemm_becomes_a_matmul_or_stays(form, tmp_path):
    model, x = linear_chain(gemm=True), np.concatenate(vectors())
    became = ort_ext.convert(tune(model, vectors(), {"gemm_to_matmul": True}), form)
    stayed = ort_ext.convert(tune(model, vectors(), {"gemm_to_matmul": False}), form)
    types = [{node.op_type for node in each.graph.node} for each in (became, stayed)]
    assert types[0] & {"MatMul", "MatMulIntegerToFloat"}
    assert "Gemm" in types[1]
    assert not types[1] & {"MatMul", "MatMulIntegerToFloat", "Sum"}
    assert [each.dtype for each in QuantizedGraph(stayed).of_kind("bias")] == [np.int32] * 2
    assert optimized_types(GraphModel(stayed, {}), tmp_path)["QGemm"] == 2
    if form == "qdq":  # equal but for a few roundings that fall on the other side
        expected = run(became, x)
        assert np.linalg.norm(run(stayed, x) - expected) < 0.005 * np.linalg.norm(expected)


def test_a_smoothed_gemm_that_stays_computes_the_same():
    model, x = linear_chain(gemm=True), np.concatenate(vectors())
    rule = {"fc2": {"weight": {"dtype": ["fp32"]}}}  # in fp32, behind one that is smoothed
    results = []
    for whether in (True, False):
        recipes = {"smooth_quant": True, "smooth_quant_args": {"alpha": 0.5}, "gemm_to_matmul": whether}
        tuned = tune(model, vectors(), recipes, op_name_dict=rule)
        results.append(run(ort_ext.convert(tuned), x))
        assert tuned.tuning_result.alphas == {"fc1": 0.5}
    np.testing.assert_allclose(results[1], results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", ["convolutions", "gemms", "transformer"])
def test_weights_get_a_pair_and_the_numbers_stay(model):
    proto, data = {
        "convolutions": (conv_net(), IMAGES),
        "gemms": (linear_chain(gemm=True), vectors()),
        "transformer": (transformer_block(), vectors(8, 4, 6, 32)),
    }[model]
    usual, paired = (ort_ext.convert(tune(proto, data, {"add_qdq_pair_to_weight": each})) for each in (False, True))
    integers, floats = (QuantizedGraph(each).of_kind("weight") for each in (usual, paired))
    assert {pair.stored.dtype for pair in integers} == {np.dtype(np.int8)}
    assert {pair.stored.dtype for pair in floats} == {np.dtype(np.float32)}
    assert len(integers) == len(floats) > 0
    np.testing.assert_array_equal(run(paired, data[0]), run(usual, data[0]))


def test_readers_get_pairs_of_their_own_and_the_numbers_stay():
    for proto, data in ((conv_net(), IMAGES), (transformer_block(), vectors(8, 4, 6, 32))):
        shared, own = (ort_ext.convert(tune(proto, data, {"dedicated_qdq_pair": each})) for each in (False, True))
        most = [max(len(pair.readers) for pair in QuantizedGraph(each).of_kind("activation")) for each in (shared, own)]
        assert most[0] >= 2
        assert most[1] == 1
        np.testing.assert_array_equal(run(own, data[0]), run(shared, data[0]))


def test_recipes_about_pairs_choose_the_form_that_shows_them():
    tuned = tune(linear_chain(), vectors(), {"dedicated_qdq_pair": True})
    usual = tune(linear_chain(), vectors(), {})
    x = vectors()[0]
    for each, form in ((tuned, "qdq"), (usual, "cpu")):
        expected = ort_ext.session(each, form=form).run(None, {"x": x})[0]
        np.testing.assert_array_equal(ort_ext.session(each).run(None, {"x": x})[0], expected)


@pytest.mark.parametrize(
    ("types", "without"),
    [
        (["Conv"], {"relu0.out", "relu1.out", "conv2.out", "relu2.out", "pool.out", "average.out"}),
        (["Add"], {"relu2.out", "pool.out", "average.out"}),
        (["MaxPool"], {"pool.out", "average.out"}),
        (("GlobalAveragePool",), {"average.out"}),
        (["Relu"], {"relu0.out", "relu1.out", "relu2.out", "pool.out", "average.out"}),
        (["Softmax"], set()),
        ([], set()),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_outputs_of_excluded_types_stay_in_float(types, without):
    every = {"relu0.out", "relu1.out", "conv2.out", "relu2.out", "pool.out", "average.out"}
    found = graph(tune(conv_net(), IMAGES, {"optypes_to_exclude_output_quant": types}))
    assert {name for name in every if found.producers[name].op_type == "DequantizeLinear"} == every - without


def test_outputs_of_products_can_be_excluded_where_the_backend_quantizes_them():
    recipes = {"optypes_to_exclude_output_quant": ["MatMul"]}
    for given, outputs in (({}, "DequantizeLinear"), (recipes, "Add")):
        found = graph(tune(linear_chain(), vectors(), given, backend="onnxrt_qnn_ep"))
        assert found.producers["y"].op_type == outputs


def test_the_optimization_level_is_recorded_and_used_again():
    tuned = tune(linear_chain(), vectors(), {"graph_optimization_level": "ORT_ENABLE_BASIC"})
    again = ort_ext.apply_recipe(linear_chain(), Recipe.from_yaml(tuned.recipe.to_yaml()))
    for each in (tuned, again):
        assert ort_ext.session(each).get_session_options().graph_optimization_level.name == "ORT_ENABLE_BASIC"
        explicit = ort_ext.session(each, graph_optimization_level="DISABLE_ALL")
        assert explicit.get_session_options().graph_optimization_level.name == "ORT_DISABLE_ALL"
    options = onnxruntime.SessionOptions()
    assert ort_ext.session(tuned, session_options=options)


def test_recipes_are_recorded_and_applied_again():
    recipes = {
        "first_conv_or_matmul_quantization": False,
        "pre_post_process_quantization": False,
        "gemm_to_matmul": False,
        "add_qdq_pair_to_weight": True,
        "dedicated_qdq_pair": True,
        "optypes_to_exclude_output_quant": ["Add"],
    }
    tuned = tune(conv_net(), IMAGES, recipes)
    assert tuned.recipe.settings == {"backend": "onnxrt_cpu_ep", "recipes": recipes}
    assert tuned.tuning_result.recipe is tuned.recipe
    again = ort_ext.apply_recipe(conv_net(), Recipe.from_yaml(tuned.recipe.to_yaml()))
    for form in ("qdq", "cpu"):
        assert ort_ext.convert(again, form) == ort_ext.convert(tuned, form)
    assert ort_ext.convert(tuned) != ort_ext.convert(tune(conv_net(), IMAGES, {}))
    broken = tuned.recipe.to_yaml().replace("add_qdq_pair_to_weight: true", "add_qdq_pair_to_weight: 3")
    with pytest.raises(RecipeError, match="add_qdq_pair_to_weight"):
        ort_ext.apply_recipe(conv_net(), Recipe.from_yaml(broken))


def test_together_they_still_compute_what_fp32_does():
    recipes = {
        "gemm_to_matmul": False,
        "add_qdq_pair_to_weight": True,
        "dedicated_qdq_pair": True,
        "optypes_to_exclude_output_quant": ["MaxPool"],
        "pre_post_process_quantization": False,
        "last_conv_or_matmul_quantization": False,
    }
    x = np.concatenate(IMAGES)
    reference = run(conv_net(), x)
    quantized = ort_ext.convert(tune(conv_net(), IMAGES, recipes))
    onnx.checker.check_model(quantized)
    assert 0 < np.linalg.norm(run(quantized, x) - reference) < 0.05 * np.linalg.norm(reference)
    counted = Counter(node.op_type for node in quantized.graph.node)
    assert counted["Gemm"] == counted["Add"] == 1


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"gemm_to_matmull": True}, r"unknown key 'gemm_to_matmull'(.|\n)*Did you mean 'gemm_to_matmul'"),
        ({"gemm_to_matmul": "yes"}, r"gemm_to_matmul: 'yes' is a str(.|\n)*True or False"),
        ({"first_conv_or_matmul_quantization": None}, r"first_conv_or_matmul_quantization: it is None"),
        ({"graph_optimization_level": "ALL"}, r"unknown level 'ALL'(.|\n)*'ENABLE_EXTENDED'"),
        ({"optypes_to_exclude_output_quant": ["Konv"]}, r"unknown operator type 'Konv'(.|\n)*Did you mean 'Conv'"),
        ({"optypes_to_exclude_output_quant": {"Conv"}}, r"which has no order(.|\n)*a list of ONNX operator types"),
    ],
)
def test_bad_recipes(recipes, message):
    with pytest.raises(ArgumentError, match=message):
        ort_ext.autotune(linear_chain(), vectors(), recipes=recipes)


def test_sessions_of_converted_models_need_no_help():
    """A candidate's session and that of the saved bytes compute the same."""
    tuned = tune(conv_net(), IMAGES, {"dedicated_qdq_pair": True})
    own = Candidate(tuned.model("qdq")).session.run(None, {"x": IMAGES[0]})[0]
    saved = onnxruntime.InferenceSession(ort_ext.convert(tuned).SerializeToString())
    np.testing.assert_allclose(saved.run(None, {"x": IMAGES[0]})[0], own, rtol=1e-5, atol=1e-6)
