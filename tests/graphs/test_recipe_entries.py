"""The numbers of a plan in a recipe."""

from __future__ import annotations

import json

import numpy as np

from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.result.recipe import OperatorRecipe
from inc_autotune.graphs.plan import NOTHING, OperatorCalibration, QuantizationPlan
from inc_autotune.graphs.recipe_entries import calibration_entries, calibrations_from_recipe

INT8 = OpConfig(TensorConfig("int8", "sym"), TensorConfig("uint8", "asym"), "static")
SCALE = np.array([1, 2.5], np.float32)
CALIBRATIONS = {
    "query": OperatorCalibration((-1.5, 2.0), SCALE),
    "key": OperatorCalibration((-1.0, 2.0), SCALE.copy(), reduce_range=True),
    "depthwise": OperatorCalibration((0.0, 1.0), None, (-3.0, 4.0)),
    "outside": OperatorCalibration(smoothing=SCALE),
}
PLAN = QuantizationPlan(dict.fromkeys(("query", "key", "depthwise", "half"), INT8), CALIBRATIONS)


def test_entries_are_plain_and_hold_each_scale_once() -> None:
    entries, arrays = calibration_entries(PLAN, {"folding": False})
    assert json.loads(json.dumps(entries)) == {
        "query": {"input_minimum": -1.5, "input_maximum": 2.0, "smoothing": "query.smoothing", "folding": False},
        "key": {
            "input_minimum": -1.0,
            "input_maximum": 2.0,
            "smoothing": "query.smoothing",
            "reduce_range": True,
            "folding": False,
        },
        "depthwise": {
            "input_minimum": 0.0,
            "input_maximum": 1.0,
            "output_minimum": -3.0,
            "output_maximum": 4.0,
            "folding": False,
        },
        "half": {"folding": False},
    }
    assert list(arrays) == ["query.smoothing"]


def test_what_is_written_comes_back() -> None:
    entries, arrays = calibration_entries(PLAN, {})
    operators = {name: OperatorRecipe("MatMul", INT8, "", entry) for name, entry in entries.items()}
    found = calibrations_from_recipe(operators, arrays)
    assert list(found) == list(PLAN.configs)
    for name, each in found.items():
        expected = PLAN.calibration(name)
        assert (each.range, each.output_range, each.reduce_range) == (
            expected.range,
            expected.output_range,
            expected.reduce_range,
        )
        assert (each.smoothing is None) == (expected.smoothing is None)
        assert each.smoothing is None or np.array_equal(each.smoothing, SCALE)


def test_a_plan_says_what_is_smoothed_and_reduced() -> None:
    assert list(PLAN.scales) == ["query", "key", "outside"]
    assert PLAN.reduced == {"key"}
    assert PLAN.calibration("nothing") is NOTHING
    assert QuantizationPlan({"fc": FP32}, {}).reduced == frozenset()
