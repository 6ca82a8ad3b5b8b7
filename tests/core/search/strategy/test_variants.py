"""The best model in another form, once the strategy has nothing left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.search.strategy.variants import untried_variant
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space.units import Assignment, TuningSpace, Unit

INT8 = OpConfig(TensorConfig("int8"), TensorConfig("uint8"), "static")
ASSIGNMENT = Assignment((("unit", INT8),), 100)
BEST = Trial(0, ASSIGNMENT, "all quantized", "complete", score=1.0, met=True)


def test_each_variant_of_the_best_model_is_tried_once() -> None:
    first = untried_variant(BEST, [BEST], ["one", "other"])
    assert first is not None
    assert first.label == "all quantized, one"
    assert first.assignment.by_unit == ASSIGNMENT.by_unit
    tried = Trial(1, first.assignment, first.label, "complete", score=0.5)
    second = untried_variant(BEST, [BEST, tried], ["one", "other"])
    assert second is not None
    assert second.assignment.variant == "other"
    last = Trial(2, second.assignment, second.label, "complete", score=0.5)
    assert untried_variant(BEST, [BEST, tried, last], ["one", "other"]) is None


@pytest.mark.parametrize(
    "best", [None, replace(BEST, met=False), replace(BEST, assignment=replace(ASSIGNMENT, variant="one"))]
)
def test_nothing_is_tried_without_a_usual_model_that_met_the_goal(best: Trial | None) -> None:
    assert untried_variant(best, [], ["one", "other"]) is None


def test_an_assignment_keeps_its_variant() -> None:
    variant = replace(ASSIGNMENT, variant="one")
    assert Assignment.from_dict(variant.to_dict()) == variant
    assert Assignment.from_dict(ASSIGNMENT.to_dict()) == ASSIGNMENT
    assert variant.digest != ASSIGNMENT.digest
    assert variant.replace({"unit": INT8}).variant == "one"
    space = TuningSpace((Unit("unit", (("unit", "Conv"),), (INT8,)),))
    assert space.tune_cfg(variant)["variant"] == "one"
    assert "variant" not in space.tune_cfg(ASSIGNMENT)
