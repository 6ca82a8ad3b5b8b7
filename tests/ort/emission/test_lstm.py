"""LSTMs run in onnxruntime's integer kernel, with all that they may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.target.saturation import saturates
from tests.ort.processors import pretend
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.small_models import GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

STEPS, BATCH, FEATURES, HIDDEN = 6, 3, 8, 16
DATA = vectors(4, STEPS, BATCH, FEATURES)
HARD = {"activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.2], "activation_beta": [0.5]}
CASES: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional", "bias": True},
    "states": {"direction": "bidirectional", "states": True, "lengths": True, "bias": True},
    "peepholes": {"states": True, "peepholes": True, "bias": True},
    "gates": {"clip": 2.0, "input_forget": 1, **HARD},
}


def tagger(
    *, bias: bool = False, lengths: bool = False, states: bool = False, peepholes: bool = False, **attributes: Any
) -> ModelProto:
    """`x` [steps, batch, features] through an LSTM and a linear layer to `y` [steps, batch, 4]."""
    graph = GraphWriter()
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    weights = [
        graph.random(f"lstm.{name}", directions, 4 * HIDDEN, size, scale=size**-0.5)
        for name, size in (("input", FEATURES), ("state", HIDDEN))
    ]
    others = [
        graph.random("lstm.bias", directions, 8 * HIDDEN, scale=0.1) if bias else "",
        graph.constant("lstm.lengths", [STEPS, STEPS - 2, 1], np.int32) if lengths else "",
        *(graph.random(f"lstm.{name}", directions, BATCH, HIDDEN) if states else "" for name in ("h", "c")),
        graph.random("lstm.peepholes", directions, 3 * HIDDEN, scale=0.3) if peepholes else "",
    ]
    graph.add("LSTM", "x", *weights, *others, name="lstm", outputs=3, hidden_size=HIDDEN, **attributes)
    merged = graph.add("Transpose", "lstm.out", perm=[0, 2, 1, 3])
    merged = graph.add("Reshape", merged, graph.constant("shape", [STEPS, BATCH, -1], np.int64))
    graph.linear(merged, "head", directions * HIDDEN, 4)
    return graph.model({"x": (TensorProto.FLOAT, [STEPS, BATCH, FEATURES])}, 3)


def tune(model: ModelProto, **arguments: Any) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, DATA, sampling_sizes=[16], progress=False, **arguments)


def decibels(model: ModelProto, tuned: ort_ext.TunedModel, form: str) -> float:
    """Signal over error of a form of the tuned model."""
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": DATA[0]})[0]
    error = ort_ext.session(tuned, form=form).run(None, {"x": DATA[0]})[0] - expected
    return float(10 * np.log10((expected**2).sum() / (error**2).sum()))


@pytest.mark.parametrize("case", CASES)
def test_an_lstm_becomes_integer_whatever_it_has(case: str) -> None:
    model = tagger(**CASES[case])
    tuned = tune(model)
    assert {each.name: (each.dtype, each.approach) for each in tuned.tuning_result.operators}["lstm"] == (
        "int8",
        "dynamic",
    )
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    for form in ("qdq", "cpu"):
        node = next(node for node in ort_ext.convert(tuned, form).graph.node if node.name == "lstm")
        assert node.op_type == "DynamicQuantizeLSTM"
        assert decibels(model, tuned, form) > 27


def test_the_recipe_gives_the_same_model(tmp_path: Any) -> None:
    model = tagger(**CASES["states"])
    tuned = tune(model)
    ort_ext.save(tuned, tmp_path / "model.onnx")
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned) == onnx.load(tmp_path / "model.onnx")


def test_one_scale_for_a_weight_on_request() -> None:
    model = tagger(direction="bidirectional")
    tuned = tune(model, op_type_dict={"LSTM": {"weight": {"granularity": ["per_tensor"]}}})
    constants = QuantizedGraph(ort_ext.convert(tuned)).constants
    assert constants["lstm.input.scale"].shape == (2,)
    assert decibels(model, tuned, "qdq") > 25


def test_weights_that_are_put_together_from_others() -> None:
    """As exporters do, to bring gates into the order of ONNX and directions side by side."""
    model = tagger(direction="bidirectional")
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    parts = [f"part{index}" for index in range(2)]
    for name, half in zip(parts, weights["lstm.input"], strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(half, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    made = [helper.make_node("Unsqueeze", [name, "first"], [f"{name}.3d"]) for name in parts]
    made.append(helper.make_node("Concat", [f"{name}.3d" for name in parts], ["joined"], axis=0))
    for node in reversed(made):
        model.graph.node.insert(0, node)
    next(node for node in model.graph.node if node.op_type == "LSTM").input[1] = "joined"
    assert tune(model).tuning_result.weight_shares == {"int8": 1.0}


def test_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger(bias=True)
    assert saturates("LSTM", "uint8", "int8") is saturates("MatMul", "uint8", "int8")
    assert not saturates("LSTM", "uint8", "uint8")
    for vnni, largest in ((True, 127), (False, 64)):
        pretend(monkeypatch, vnni=vnni)
        tuned = tune(model)
        constants = QuantizedGraph(ort_ext.convert(tuned)).constants
        assert np.abs(constants["lstm.state.quantized"].astype(int)).max() == largest
        assert decibels(model, tuned, "cpu") > 22


def test_eight_bits_stay_exact_in_sessions_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, vnni=True)
    tuned = tune(tagger(direction="bidirectional", bias=True))
    signed = ort_ext.session(tuned).run(None, {"x": DATA[0]})[0]
    pretend(monkeypatch, vnni=False)
    np.testing.assert_allclose(ort_ext.session(tuned).run(None, {"x": DATA[0]})[0], signed, atol=1e-5)
