"""Weights rounded by the second moments of their inputs, from calibration to recipes and models."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.core.errors import RecipeError
from tests.ort import recurrent_models
from tests.ort.small_models import GraphWriter, transformer_block

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

QUIET = {"progress": False, "objective": "modelsize"}
FREE = {"fast_bias_correction": False, "weight_correction": False}


def correlated(count: int, channels: int, *space: int, seed: int) -> np.ndarray:
    """Normal numbers with few directions among the channels, which are axis 1."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(2, channels))
    values = np.einsum("bi...,ic->bc...", generator.normal(size=(count, 2, *space)), mixing)
    return (values + 0.1 * generator.normal(size=values.shape)).astype(np.float32)


def product(op_type: str) -> onnx.ModelProto:
    graph = GraphWriter()
    bias = graph.random("one.bias", 24, scale=0.1)
    if op_type == "MatMul":
        result = graph.add("MatMul", "x", graph.random("one.weight", 16, 24, scale=0.3), name="one")
        graph.add("Add", result, bias, name="plus")
    else:
        graph.add("Gemm", "x", graph.random("one.weight", 24, 16, scale=0.3), bias, name="one", transB=1)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 16])}, 2)


def left() -> onnx.ModelProto:
    """A product whose weight is the first operand."""
    graph = GraphWriter()
    graph.add("MatMul", graph.random("one.weight", 24, 16, scale=0.3), "x", name="one")
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 16, 9])}, 3)


def convolution(op_type: str, *shape: int, **attributes: object) -> onnx.ModelProto:
    graph = GraphWriter()
    graph.add(op_type, "x", graph.random("one.weight", *shape, scale=0.3), name="one", **attributes)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 16, 9, 9])}, 4)


CASES = {
    "matmul": (product("MatMul"), ()),
    "gemm": (product("Gemm"), ()),
    "left": (left(), (9,)),
    "conv": (convolution("Conv", 8, 16, 3, 3, strides=[2, 1], pads=[1, 0, 1, 2]), (9, 9)),
    "grouped": (convolution("Conv", 8, 8, 3, 3, group=2, strides=[2, 1], auto_pad="SAME_UPPER"), (9, 9)),
    "transposed": (convolution("ConvTranspose", 16, 4, 3, 3, group=2, strides=[2, 2], pads=[1, 1, 0, 1]), (9, 9)),
}


def batches(space: tuple[int, ...], seed: int = 1) -> list[np.ndarray]:
    return list(np.split(correlated(160, 16, *space, seed=seed), 10))


def tuned_with(model: onnx.ModelProto, data: list[np.ndarray], rounding: str, **arguments: object):
    recipes = {"weight_rounding": rounding, "smooth_quant": False, **FREE}
    return ort_ext.autotune(model, data, **{"recipes": recipes, **QUIET, **arguments})


def output(session: onnxruntime.InferenceSession, data: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([session.run(None, {"x": each})[0] for each in data])


def weight_error(model: onnx.ModelProto, tuned: object, space: tuple[int, ...], form: str) -> float:
    """Of a model whose input is rounded as well, which hides it a little."""
    unseen = batches(space, seed=2)
    expected = output(onnxruntime.InferenceSession(model.SerializeToString()), unseen)
    return float(((output(ort_ext.session(tuned, form=form), unseen) - expected) ** 2).sum())


@pytest.mark.parametrize("name", list(CASES))
def test_the_output_comes_closer_in_every_form_and_the_recipe_holds_it(name, tmp_path):
    model, space = CASES[name]
    # Of 4 bits, so that weights do more harm than activations.
    rules = {"op_type_dict": {".*": {"weight": {"dtype": ["int4"]}}}, "capability": four_bits(model)}
    nearest, rounded = (
        tuned_with(model, batches(space), rounding, **rules) for rounding in ("nearest", "second_moment")
    )
    for form in ("cpu", "qdq"):
        errors = [weight_error(model, each, space, form) for each in (nearest, rounded)]
        assert errors[1] < 0.8 * errors[0], form
    (operator,) = rounded.tuning_result.operators
    assert operator.rounding == "second_moment"
    assert "rounded by second moments" in str(rounded.tuning_result)
    rounded.tuning_result.recipe.save(tmp_path / "recipe.yaml")
    applied = ort_ext.apply_recipe(model, tmp_path / "recipe.yaml")
    for form in ("cpu", "qdq"):
        assert constants(applied, form) == constants(rounded, form)


def four_bits(model: onnx.ModelProto, approach: str = "static") -> dict[str, object]:
    """A capability of weights of 4 bits for the model's operator."""
    weight = {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    option = {"weight": weight, "activation": activation}
    return {"int4": {approach: {model.graph.node[0].op_type: option}}}


def constants(tuned: object, form: str) -> dict[str, bytes]:
    proto = ort_ext.convert(tuned, form)
    return {each.name: numpy_helper.to_array(each).tobytes() for each in proto.graph.initializer}


@pytest.mark.parametrize("approach", ["dynamic", "weight_only"])
def test_products_without_calibrated_ranges_are_rounded_too(approach):
    model, space = CASES["matmul"]
    nearest, rounded = (
        tuned_with(model, batches(space), rounding, approach=approach) for rounding in ("nearest", "second_moment")
    )
    assert constants(nearest, "cpu") != constants(rounded, "cpu")
    assert rounded.tuning_result.operators[0].rounding == "second_moment"
    if approach == "weight_only":  # in blocks of 4 bits
        errors = [weight_error(model, each, space, "cpu") for each in (nearest, rounded)]
        assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_a_weight_that_takes_in_the_smoothing_of_a_later_one_is_rounded_as_it_is_written(approach):
    """Up and down of the feed-forward net, through a norm: the recipe, without data, gives the same integers."""
    model = transformer_block(outliers=20.0)
    data = [np.moveaxis(each, 1, 2) for each in np.split(correlated(48, 32, 6, seed=3), 6)]
    recipes = {"weight_rounding": "second_moment", **FREE}
    tuned = ort_ext.autotune(model, data, approach=approach, recipes=recipes, smoothquant_args={"alpha": 0.5}, **QUIET)
    rounded = {each.name for each in tuned.tuning_result.operators if each.rounding == "second_moment"}
    assert {"layer0.attention.query", "layer0.up", "layer0.down"} <= rounded
    applied = ort_ext.apply_recipe(model, tuned.recipe)
    for form in ("cpu", "qdq"):
        assert constants(applied, form) == constants(tuned, form)


def test_auto_takes_what_comes_closer_on_samples_that_are_held_out():
    model, space = CASES["conv"]
    rules = {"op_type_dict": {".*": {"weight": {"dtype": ["int4"]}}}, "capability": four_bits(model)}
    tuned = tuned_with(model, batches(space), "auto", **rules)
    assert tuned.tuning_result.operators[0].rounding == "second_moment"
    assert tuned.tuning_result.smoothing[0][1] < tuned.tuning_result.smoothing[-1][1]


RECURRENCES = {
    "LSTM": ("LSTM", {"direction": "bidirectional", "bias": True, "states": True, "lengths": True}),
    "one scale": ("LSTM", {"direction": "bidirectional"}),
    "GRU": ("GRU", {"direction": "bidirectional", "bias": True}),
    "GRU, linear": ("GRU", {"linear_before_reset": 1, "direction": "reverse", "bias": True}),
    "RNN": ("RNN", {"states": True}),
}


def sequences(seed: int) -> list[np.ndarray]:
    """Of vectors [steps, batch, features] in few directions, so that states have few as well."""
    shape = (8, recurrent_models.STEPS, recurrent_models.BATCH)
    whole = np.moveaxis(correlated(shape[0], recurrent_models.FEATURES, *shape[1:], seed=seed), 1, -1)
    return list(np.ascontiguousarray(whole))


@pytest.mark.parametrize("name", list(RECURRENCES))
def test_recurrences_are_rounded_by_inputs_and_hidden_states(name, tmp_path):
    op_type, attributes = RECURRENCES[name]
    model = recurrent_models.tagger(op_type, **attributes)
    weight = {"dtype": ["int4"], "granularity": ["per_tensor" if name == "one scale" else "per_channel"]}
    option = {"weight": {**weight, "scheme": ["sym"], "algorithm": ["minmax"]}, "activation": {"dtype": ["uint8"]}}
    option["activation"] |= {"scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    rules = {
        "op_type_dict": {op_type: {"weight": weight}, "MatMul": {"weight": {"dtype": ["fp32"]}}},
        "capability": {"int4": {"dynamic": {op_type: option}}},
        "sampling_sizes": [24],
    }
    nearest, rounded = (tuned_with(model, sequences(1), rounding, **rules) for rounding in ("nearest", "second_moment"))
    (expected,), unseen = [onnxruntime.InferenceSession(model.SerializeToString())], sequences(2)
    for form in ("cpu", "qdq"):
        errors = [
            float(np.square(output(ort_ext.session(each, form=form), unseen) - output(expected, unseen)).sum())
            for each in (nearest, rounded)
        ]
        assert errors[1] < 0.8 * errors[0], form
    assert {each.name: each.rounding for each in rounded.tuning_result.operators}["rnn"] == "second_moment"
    rounded.recipe.save(tmp_path / "recipe.yaml")
    applied = ort_ext.apply_recipe(model, tmp_path / "recipe.yaml")
    for form in ("cpu", "qdq"):
        assert constants(applied, form) == constants(rounded, form)


def shared_product() -> tuple[onnx.ModelProto, list[np.ndarray]]:
    graph = GraphWriter()
    weight = graph.random("weight", 16, 16, scale=0.3)
    first = graph.add("MatMul", "x", weight, name="one")
    graph.add("MatMul", graph.add("Tanh", first, name="tanh"), weight, name="two")
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 16])}, 2), batches(())


def shared_recurrence() -> tuple[onnx.ModelProto, list[np.ndarray]]:
    graph = GraphWriter()
    weights = [graph.random(f"weight{index}", 1, 16, 16, scale=0.3) for index in range(2)]
    first = graph.add("RNN", "x", *weights, name="one", hidden_size=16)
    squeezed = graph.add("Squeeze", first, graph.constant("axis", [1], np.int64), name="squeezed")
    graph.add("RNN", squeezed, *weights, name="two", hidden_size=16)
    graph.add("Squeeze", "two.out", "axis", name="features")
    model = graph.model({"x": (TensorProto.FLOAT, [6, 3, 16])}, 3)
    return model, [np.moveaxis(each, 1, -1).reshape(6, 3, 16) for each in np.split(correlated(144, 16, seed=1), 8)]


@pytest.mark.parametrize("shared", [shared_product, shared_recurrence])
def test_a_weight_that_several_inputs_meet_is_rounded_once_by_the_moment_of_all(shared):
    model, data = shared()
    approach = "static" if shared is shared_product else "dynamic"
    nearest, rounded = (
        tuned_with(model, data, rounding, approach=approach) for rounding in ("nearest", "second_moment")
    )
    assert {each.rounding for each in rounded.tuning_result.operators} == {"second_moment"}
    before, after = constants(nearest, "qdq"), constants(rounded, "qdq")
    assert before.keys() == after.keys()  # so it is still there once
    assert before != after
    assert constants(ort_ext.apply_recipe(model, rounded.recipe), "qdq") == after


def test_a_weight_that_another_product_reads_transposed_is_rounded_for_each():
    graph = GraphWriter()
    weight = graph.random("weight", 24, 16, scale=0.3)
    first = graph.add("Gemm", "x", weight, name="one", transB=1)
    graph.add("Gemm", graph.add("Tanh", first, name="tanh"), weight, name="two")
    model = graph.model({"x": (TensorProto.FLOAT, ["batch", 16])}, 2)
    tuned = tuned_with(model, batches(()), "second_moment")
    assert {each.rounding for each in tuned.tuning_result.operators} == {"second_moment"}


def test_moments_beyond_the_memory_limit_are_told(monkeypatch):
    monkeypatch.setattr("inc_autotune.core.quantization.input_moments.MOMENT_BYTES", 0)
    model, space = CASES["gemm"]
    tuned = tuned_with(model, batches(space), "auto")
    assert any("weights of 1 inputs are rounded to nearest" in note for note in tuned.tuning_result.notes)


def test_steps_of_another_weight_are_refused():
    model, space = CASES["gemm"]
    recipe = tuned_with(model, batches(space), "second_moment").recipe
    other = tuned_with(CASES["conv"][0], batches((9, 9)), "second_moment").recipe
    arrays = {"one.rounding_steps": other.arrays["one.rounding_steps"]}
    with pytest.raises(RecipeError, match="rounding"):
        ort_ext.apply_recipe(model, type(recipe)(recipe.framework, recipe.operators, arrays))


def test_a_saved_model_holds_rounded_weights_and_not_how_they_came_about(tmp_path, caplog):
    """Which the recipe beside it does."""
    model, space = CASES["gemm"]
    tuned = tuned_with(model, batches(space), "second_moment")
    ort_ext.save(tuned, tmp_path / "model.onnx")
    loaded = ort_ext.load(tmp_path / "model.onnx")
    assert constants(loaded, "qdq") == constants(tuned, "qdq")
    assert loaded.recipe.operators["one"].config.rounding == "second_moment"
    assert not any("rounding_steps" in name for name in loaded.recipe.arrays)
    beside = ort_ext.apply_recipe(model, tmp_path / "model.recipe.yaml")
    assert constants(beside, "qdq") == constants(tuned, "qdq")
    assert caplog.text == ""
    again = ort_ext.apply_recipe(model, loaded.recipe)
    assert "does not hold how the weights of 1 operators were rounded" in caplog.text
    assert constants(again, "qdq") == constants(tuned_with(model, batches(space), "nearest"), "qdq")
