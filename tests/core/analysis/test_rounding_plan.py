"""Which rounding of weights is tried first, by errors the test chooses."""

from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.analysis import SmoothingPlan, plan_rounding
from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space import build_space
from inc_autotune.testing import NumpyAdaptor, random_model


class Scripted(NumpyAdaptor):
    """The error at the output is a function of the rounding and of the alpha that all units have."""

    def __init__(self, error_of, rounds=True):
        super().__init__()
        self.error_of, self.rounds = error_of, rounds

    def rounded_units(self, units):
        return [unit.name for unit in units] if self.rounds else []

    def rounding_reason(self, name):
        return None if self.rounds else "the test says so"

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        (form,) = {(config.get("rounding", "nearest"), config.get("alpha")) for config in tune_cfg["op"].values()}
        return self.error_of(*form)

    def reference_outputs(self):
        return [np.ones(1)]

    def run(self, candidate):
        return [np.ones(1) + np.sqrt(candidate)]


def planned(adaptor, plans, requested="auto", form=SMOOTHQUANT, **limits):
    model = random_model()
    size = adaptor.calibrate(model, [np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)], (64,))
    space = build_space(offered_options(adaptor, model))
    plans = [
        SmoothingPlan(name, {} if alpha is None else {unit.name: alpha for unit in space.units}, required, error)
        for name, alpha, required, error in plans
    ]
    plans[0] = replace(plans[0], forms=dict.fromkeys(plans[0].alphas, form))
    return plan_rounding(adaptor, model, space, plans, requested, size, **limits)


TWO = [("alpha 0.5", 0.5, True, 0.2), ("off", None, False, 0.4)]


def names(plans):
    return [(plan.name.replace(" with weights rounded by second moments", "+"), plan.required) for plan in plans]


def test_second_moments_are_taken_where_they_come_closer_and_nearest_stays_in_reserve():
    plans = planned(Scripted(lambda rounding, alpha: 0.1 if rounding == "second_moment" else 0.2), TWO)
    assert names(plans) == [("alpha 0.5+", True), ("off+", False), ("alpha 0.5", False)]
    assert [plan.output_error for plan in plans] == [pytest.approx(0.1), None, 0.2]
    assert plans[0].rounded
    assert not plans[-1].rounded


def test_nearest_is_kept_where_second_moments_come_no_closer():
    plans = planned(Scripted(lambda rounding, alpha: 0.3), [("alpha 0.5", 0.5, True, 0.2)])
    assert names(plans) == [("alpha 0.5", True), ("alpha 0.5+", False)]


def test_larger_alphas_follow_while_they_come_closer():
    errors = {0.5: 0.1, 0.6: 0.08, 0.7: 0.09, 0.8: 0.01}
    plans = planned(Scripted(lambda rounding, alpha: errors[alpha]), TWO, alphas=[0.4, 0.5, 0.6, 0.7, 0.8])
    assert plans[0].name.startswith("alpha 0.6")
    assert set(plans[0].alphas.values()) == {0.6}


def test_larger_alphas_keep_the_form():
    adaptor, form = Scripted(lambda rounding, alpha: 0.1 - alpha / 100), SmoothingForm(0.2, "norm")
    best = planned(adaptor, TWO, alphas=[0.5, 0.6], form=form)[0]
    assert best.name == "alpha 0.6, beta 0.2, norm of the weight with weights rounded by second moments"
    assert set(best.forms.values()) == {form}


def test_float_activations_give_no_error_to_weights():
    class WeightOnly(Scripted):
        def query_fw_capability(self, model):
            known = super().query_fw_capability(model)
            for options in known["opwise"].values():
                for option in options:
                    option["activation"] = {"dtype": "fp32"}
                    option["approach"] = "weight_only"
            return known

    adaptor = WeightOnly(lambda rounding, alpha: 0.1 - alpha / 100)
    assert planned(adaptor, TWO, alphas=[0.5, 0.6])[0].name.startswith("alpha 0.5 with")


def test_a_plan_without_an_error_is_measured_too():
    adaptor = Scripted(lambda rounding, alpha: 0.1 if rounding == "second_moment" else 0.2)
    assert names(planned(adaptor, [("alpha 0.5", 0.5, True, None)])) == [("alpha 0.5+", True), ("alpha 0.5", False)]


def test_without_time_or_output_weights_are_rounded_to_nearest():
    assert names(planned(Scripted(None), [("off", None, True, None)], expired=lambda: True)) == [("off", True)]
    silent = Scripted(None)
    silent.reference_outputs = lambda: None
    assert names(planned(silent, [("off", None, True, None)])) == [("off", True)]


def test_a_request_goes_before_the_comparison():
    adaptor = Scripted(lambda rounding, alpha: 0.5 if rounding == "second_moment" else 0.2)
    assert names(planned(adaptor, TWO, "second_moment"))[0] == ("alpha 0.5+", True)
    assert names(planned(adaptor, TWO, "nearest")) == [("alpha 0.5", True), ("off", False)]


def test_a_candidate_that_fails_is_not_chosen():
    def error_of(rounding, alpha):
        raise RuntimeError("no such kernel")

    assert names(planned(Scripted(error_of), TWO))[0] == ("alpha 0.5", True)


def test_a_request_that_nothing_can_heed_is_told():
    plans = planned(Scripted(None, rounds=False), TWO, "second_moment")
    assert "weight_rounding has no effect" in plans[0].note
    assert planned(Scripted(None, rounds=False), TWO)[0].note is None


def test_the_recipe_is_checked():
    known = {"strategies": ["auto"], "backends": ["default"]}
    assert validate_arguments(**known).weight_rounding == "auto"
    for word in ("auto", "nearest", "second_moment"):
        assert validate_arguments(**known, recipes={"weight_rounding": word}).weight_rounding == word
    with pytest.raises(ArgumentError, match=r"weight_rounding.*\n.*'nearest'.*second_moment"):
        validate_arguments(**known, recipes={"weight_rounding": "second_moments"})
    with pytest.raises(ArgumentError, match="weight_rounding"):
        validate_arguments(**known, recipes={"weight_rounding": True})
