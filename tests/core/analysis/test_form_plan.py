"""Which form of smoothing is tried first, by errors the test chooses."""

from dataclasses import asdict

import numpy as np
import pytest

from inc_autotune.core.analysis import BY_SECOND_MOMENTS
from inc_autotune.core.analysis.form_plan import MOST_EXPONENTS, plan_forms
from inc_autotune.core.analysis.smoothing_plan import SmoothingPlan
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space import build_space
from inc_autotune.core.vocabulary import FORM_NAMES
from inc_autotune.testing import NumpyAdaptor, random_model


class Scripted(NumpyAdaptor):
    """The error at the output is a function of the exponents and the form of the first unit; asked ones are kept."""

    def __init__(self, error_of, able=FORM_NAMES):
        super().__init__()
        self.error_of, self.able, self.asked = error_of, able, []

    def smoothing_forms(self):
        return self.able

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        config = next(iter(tune_cfg["op"].values()))
        form = SmoothingForm(**config.get("smoothing_form", {}))
        beta = round(1 - config["alpha"], 10) if form.beta is None else form.beta
        self.asked.append((config["alpha"], beta, form.weight, form.shifted))
        return self.error_of(*self.asked[-1])

    def reference_outputs(self):
        return [np.ones(1)]

    def run(self, candidate):
        return [np.ones(1) + np.sqrt(candidate)]


def planned(adaptor, alphas=(0.8,), error=0.5, allowed=FORM_NAMES, rounded=(), form=None, **limits):
    model = random_model()
    size = adaptor.calibrate(model, [np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)], (64,))
    space = build_space(offered_options(adaptor, model))
    names = [unit.name for unit in space.units]
    by_name = {name: alphas[index % len(alphas)] for index, name in enumerate(names)}
    name = "alpha 0.8" if len(alphas) == 1 else "layer-wise"
    forms = {} if form is None else dict.fromkeys(names, form)
    plans = [
        SmoothingPlan(name, by_name, output_error=error, rounded=rounded, forms=forms),
        SmoothingPlan("off", {}, required=False, output_error=0.9),
    ]
    alphas = [step / 10 for step in range(11)]
    return plan_forms(adaptor, model, space, plans, allowed, size, **{"alphas": alphas, **limits})


def bowl(alpha, beta, weight="largest", shifted=False):
    """Least at 0.6 and 0.1."""
    return 0.1 + abs(alpha - 0.6) + abs(beta - 0.1) - 0.02 * (weight == "norm") - 0.03 * shifted


def test_the_best_form_is_found_step_by_step_and_what_was_best_stays_in_reserve():
    adaptor = Scripted(bowl)
    best, before, off = planned(adaptor, rounded=("fc",))
    assert best.name == f"alpha 0.6, beta 0.1, norm of the weight, shifted {BY_SECOND_MOMENTS}"
    assert set(best.forms.values()) == {SmoothingForm(0.1, "norm", True)}
    assert set(best.alphas.values()) == {0.6}
    assert best.output_error == pytest.approx(0.05)
    assert (before.name, before.required, off.name) == ("alpha 0.8", False, "off")
    assert len(adaptor.asked) == len(set(adaptor.asked)) <= MOST_EXPONENTS + 2
    assert SmoothingPlan.from_dict(asdict(best)) == best


def test_only_what_is_allowed_and_possible_is_compared():
    for adaptor, allowed in ((Scripted(bowl, ("norm", "shift")), ("exponents", "norm")), (Scripted(bowl), ("norm",))):
        assert planned(adaptor, allowed=allowed, error=0.385)[0].forms == {}
        assert [form[2:] for form in adaptor.asked] == [("norm", False)]
    for adaptor, more in ((Scripted(bowl), {"allowed": ()}), (Scripted(bowl), {"error": None})):
        assert planned(adaptor, **more)[0].name == "alpha 0.8"
        assert adaptor.asked == []


def test_float_activations_are_not_shifted():
    class WeightOnly(Scripted):
        def query_fw_capability(self, model):
            known = super().query_fw_capability(model)
            for options in known["opwise"].values():
                for option in options:
                    option |= {"activation": {"dtype": "fp32"}, "approach": "weight_only"}
            return known

    for adaptor, shifts in ((Scripted(bowl), True), (WeightOnly(bowl), False)):
        planned(adaptor, allowed=("norm", "shift"))
        assert any(form[3] for form in adaptor.asked) == shifts


def test_a_form_has_to_be_clearly_better():
    plans = planned(Scripted(lambda *form: 0.49 if form[2] == "norm" else 1.0))
    assert [plan.name for plan in plans] == ["alpha 0.8", "off", "alpha 0.8, norm of the weight"]
    assert plans[0].required
    assert not plans[-1].required


def test_layers_with_alphas_of_their_own_move_together_and_stay_in_range():
    best = planned(Scripted(lambda alpha, beta, *form: 0.1 + beta), alphas=(0.8, None, 0.95))[0]
    assert best.name == "layer-wise, betas -0.2"
    alphas = list(best.alphas.values())
    assert alphas[:2] == [0.8, None]
    assert [form.beta for form in best.forms.values()][:2] == [0.0, 0.0]
    assert SMOOTHQUANT.describe() == ""


def test_nothing_is_compared_once_the_time_is_over():
    adaptor = Scripted(bowl)
    assert planned(adaptor, expired=lambda: True)[0].name == "alpha 0.8"
    assert adaptor.asked == []


def test_a_form_that_was_found_before_is_kept():
    known = SmoothingForm(0.5, "norm")
    best, before, _ = planned(Scripted(lambda *form: 0.1 if form[3] else 0.3), error=0.2, form=known)
    assert best.name == "alpha 0.8, beta 0.5, norm of the weight, shifted"
    assert set(best.forms.values()) == {SmoothingForm(0.5, "norm", True)}
    assert set(before.forms.values()) == {known}
    adaptor = Scripted(bowl)
    planned(adaptor, allowed=("norm", "shift"), form=SmoothingForm(0.5, "norm", True))
    assert adaptor.asked == []
    moved = planned(adaptor, error=0.68, allowed=("exponents",), form=known)[0]
    assert moved.name == "alpha 0.6, beta 0.1, norm of the weight"


def test_a_form_that_comes_out_far_from_the_best_one_is_hopeless():
    for shifted, expected in ((5.0, {"shift"}), (3.0, set())):
        hopeless = set()
        adaptor = Scripted(lambda alpha, beta, weight, is_shifted, error=shifted: error * 0.5 if is_shifted else 0.6)
        planned(adaptor, hopeless=hopeless)
        assert hopeless == expected
