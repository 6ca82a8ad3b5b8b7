"""LSTMs run in onnxruntime's integer kernel, with all that they may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.target.saturation import saturates
from tests.ort.processors import HAS_VNNI, pretend
from tests.ort.quantized_graph import QuantizedGraph
from tests.ort.recurrent_models import DATA, decibels, tagger, tune

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

HARD = {"activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.2], "activation_beta": [0.5]}
CASES: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional", "bias": True},
    "states": {"direction": "bidirectional", "states": True, "lengths": True, "bias": True},
    "peepholes": {"states": True, "peepholes": True, "bias": True},
    "gates": {"clip": 2.0, "input_forget": 1, **HARD},
}


@pytest.mark.parametrize("case", CASES)
def test_an_lstm_becomes_integer_whatever_it_has(case: str) -> None:
    model = tagger("LSTM", **CASES[case])
    tuned = tune(model)
    assert {each.name: (each.dtype, each.approach) for each in tuned.tuning_result.operators}["rnn"] == (
        "int8",
        "dynamic",
    )
    assert tuned.tuning_result.weight_shares == pytest.approx({"int8": 1.0})
    for form in ("qdq", "cpu"):
        node = next(node for node in ort_ext.convert(tuned, form).graph.node if node.name == "rnn")
        assert node.op_type == "DynamicQuantizeLSTM"
        assert decibels(model, tuned, form) > 27


def test_the_recipe_gives_the_same_model(tmp_path: Any) -> None:
    model = tagger("LSTM", **CASES["states"])
    tuned = tune(model)
    ort_ext.save(tuned, tmp_path / "model.onnx")
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned) == onnx.load(tmp_path / "model.onnx")


def test_one_scale_for_a_weight_on_request() -> None:
    model = tagger("LSTM", direction="bidirectional")
    tuned = tune(model, op_type_dict={"LSTM": {"weight": {"granularity": ["per_tensor"]}}})
    constants = QuantizedGraph(ort_ext.convert(tuned)).constants
    assert constants["rnn.input.scale"].shape == (2,)
    assert decibels(model, tuned, "qdq") > 25


def test_weights_that_are_put_together_from_others() -> None:
    """As exporters do, to bring gates into the order of ONNX and directions side by side."""
    model = tagger("LSTM", direction="bidirectional")
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    parts = [f"part{index}" for index in range(2)]
    for name, half in zip(parts, weights["rnn.input"], strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(half, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    made = [helper.make_node("Unsqueeze", [name, "first"], [f"{name}.3d"]) for name in parts]
    made.append(helper.make_node("Concat", [f"{name}.3d" for name in parts], ["joined"], axis=0))
    for node in reversed(made):
        model.graph.node.insert(0, node)
    next(node for node in model.graph.node if node.op_type == "LSTM").input[1] = "joined"
    assert tune(model).tuning_result.weight_shares == pytest.approx({"int8": 1.0})


def test_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger("LSTM", bias=True)
    assert saturates("LSTM", "uint8", "int8") is saturates("MatMul", "uint8", "int8")
    assert not saturates("LSTM", "uint8", "uint8")
    for vnni, largest in ((True, 127), (False, 64)):
        pretend(monkeypatch, vnni=vnni)
        tuned = tune(model)
        constants = QuantizedGraph(ort_ext.convert(tuned)).constants
        assert np.abs(constants["rnn.state.quantized"].astype(int)).max() == largest
        if HAS_VNNI or not vnni:
            assert decibels(model, tuned, "cpu") > 22


def test_eight_bits_stay_exact_in_sessions_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger("LSTM", direction="bidirectional", bias=True)
    pretend(monkeypatch, vnni=True)
    tuned = tune(model)
    signed = ort_ext.session(tuned).run(None, {"x": DATA[0]})[0]
    pretend(monkeypatch, vnni=False)
    assert decibels(model, tuned, "cpu") > 25
    if HAS_VNNI:  # else it is the signed products that are wrong
        np.testing.assert_allclose(ort_ext.session(tuned).run(None, {"x": DATA[0]})[0], signed, atol=1e-5)
