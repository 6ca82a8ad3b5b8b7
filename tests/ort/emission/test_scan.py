"""GRU and RNN compute as onnxruntime's own do, with integer products in each step."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.result.recipe import Recipe
from tests.ort.processors import HAS_VNNI, pretend
from tests.ort.recurrent_models import DATA, decibels, tagger, tune

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

CASES: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse", "bias": True},
    "bidirectional": {"direction": "bidirectional", "bias": True},
    "states": {"direction": "bidirectional", "states": True, "lengths": True, "bias": True},
    "reset": {"direction": "bidirectional", "lengths": True, "bias": True, "linear_before_reset": 1},
    "activations": {"activations": ["Sigmoid", "Softsign"]},
}
KINDS = [
    (op_type, case) for op_type, case in product(("GRU", "RNN"), CASES) if op_type == "GRU" or "linear" not in str(case)
]


def settings(op_type: str, case: str) -> dict[str, Any]:
    """Those that the operator type has."""
    given = dict(CASES[case])
    if op_type == "RNN":
        given.pop("linear_before_reset", None)
        given |= {"activations": ["Softsign"]} if "activations" in given else {}
    return given


@pytest.mark.parametrize(("op_type", "case"), KINDS)
def test_a_recurrence_becomes_integer(op_type: str, case: str) -> None:
    model = tagger(op_type, **settings(op_type, case))
    tuned = tune(model)
    found = {each.name: (each.type, each.dtype, each.approach) for each in tuned.tuning_result.operators}
    assert found["rnn"] == (op_type, "int8", "dynamic")
    assert tuned.tuning_result.weight_shares == pytest.approx({"int8": 1.0})
    for form in ("qdq", "cpu"):
        nodes = {node.op_type: node for node in ort_ext.convert(tuned, form).graph.node}
        assert op_type not in nodes
        product_type = {"qdq": "MatMulInteger", "cpu": "MatMulIntegerToFloat"}[form]
        assert product_type in {node.op_type for node in nodes["Scan"].attribute[0].g.node}
        assert decibels(model, tuned, form) > 27


def test_the_model_is_portable_and_replayed(tmp_path: Any) -> None:
    model = tagger("GRU", **CASES["states"])
    tuned = tune(model)
    ort_ext.save(tuned, tmp_path / "model.onnx")
    saved = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(saved, full_check=True)
    assert {each.domain for each in saved.opset_import} == {""}
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned) == saved


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"clip": 1.0}, "its gates are clipped"),
        ({"activations": ["HardSigmoid", "Tanh"]}, "its activation Hardsigmoid has parameters"),
    ],
)
def test_what_has_no_such_form_stays_with_the_reason(attributes: dict[str, Any], words: str) -> None:
    tuned = tune(tagger("GRU", **attributes))
    assert words in tuned.tuning_result.fallbacks["rnn"]


def test_a_recurrence_alone_that_has_no_such_form() -> None:
    model = tagger("GRU", clip=1.0)
    with pytest.raises(ModelError, match="its gates are clipped"):
        tune(model, op_type_dict={"MatMul": {"weight": {"dtype": ["fp32"]}}})


def test_weights_in_the_steps_are_exact_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger("GRU", bias=True)
    pretend(monkeypatch, vnni=True)
    tuned = tune(model)
    signed = ort_ext.session(tuned).run(None, {"x": DATA[0]})[0]
    pretend(monkeypatch, vnni=False)
    assert decibels(model, tuned, "cpu") > 25
    if HAS_VNNI:  # else it is the signed products that are wrong
        np.testing.assert_allclose(ort_ext.session(tuned).run(None, {"x": DATA[0]})[0], signed, atol=1e-5)
    assert decibels(model, tune(model), "cpu") > 22
