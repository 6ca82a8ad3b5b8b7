"""Which corrections are made, by errors the test chooses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inc_autotune.core.analysis.correction_plan import plan_corrections, planned_corrections
from inc_autotune.core.vocabulary import CORRECTIONS
from inc_autotune.testing import NumpyAdaptor

BIAS, WEIGHT = CORRECTIONS
AUTO = dict.fromkeys(CORRECTIONS, "auto")


class Scripted(NumpyAdaptor):
    """The error at the output is chosen for each set of corrections; those asked for are kept."""

    def __init__(self, errors: dict[tuple[str, ...], float]) -> None:
        super().__init__()
        self.errors, self.asked = errors, []

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        self.asked.append(tune_cfg["corrections"])
        error = self.errors[tune_cfg["corrections"]]
        if math.isinf(error):
            raise ValueError("cannot be built")
        return error

    def reference_outputs(self):
        return [np.ones(1)]

    def run(self, candidate):
        return [np.ones(1) + np.sqrt(candidate)]


def plans_of(adaptor, requested=AUTO, **limits):
    return plan_corrections(adaptor, None, requested, lambda corrections: {"corrections": corrections}, **limits)


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ((1.0, 0.9, 0.95, 0.8), CORRECTIONS),
        ((1.0, 0.8, 0.95, 0.9), (BIAS,)),
        ((1.0, 0.99, 0.98, 0.98), ()),  # so small an advantage may be chance
        ((1.0, 0.8, 0.8, 0.8), (BIAS,)),  # of equal ones that with fewer corrections
        ((1.0, math.inf, 0.9, math.inf), (WEIGHT,)),
    ],
)
def test_the_smallest_error_wins(errors, best):
    adaptor = Scripted(dict(zip([(), (BIAS,), (WEIGHT,), CORRECTIONS], errors, strict=True)))
    plans = plans_of(adaptor)
    assert plans[0].corrections == best
    assert len(adaptor.asked) == len(plans) == planned_corrections(AUTO) == 4
    assert [plan.output_error for plan in plans[1:]] == sorted(plan.output_error for plan in plans[1:])


def test_a_known_error_is_not_measured_again():
    adaptor = Scripted({(BIAS,): 0.5, (WEIGHT,): 0.6, CORRECTIONS: 0.7})
    plans = plans_of(adaptor, uncorrected=1.0)
    assert [plan.name for plan in plans] == [BIAS, WEIGHT, f"{BIAS} + {WEIGHT}", "off"]


def test_what_is_asked_for_is_done_whatever_it_costs():
    adaptor = Scripted({(): 0.1, (BIAS,): 0.5})
    requested = {BIAS: True, WEIGHT: False}
    plans = plans_of(adaptor, requested)
    assert [(plan.name, round(plan.output_error, 6)) for plan in plans] == [(BIAS, 0.5), ("off", 0.1)]
    assert planned_corrections(requested) == 2


def test_nothing_is_asked_for():
    adaptor = Scripted({})
    assert plans_of(adaptor, dict.fromkeys(CORRECTIONS, False)) == ()
    assert planned_corrections(dict.fromkeys(CORRECTIONS, False)) == 0


def test_no_time_is_left():
    adaptor = Scripted({})
    assert plans_of(adaptor, expired=lambda: True)[0].corrections == ()
    assert plans_of(adaptor, {BIAS: True, WEIGHT: "auto"}, expired=lambda: True)[0].corrections == (BIAS,)
    assert adaptor.asked == []


def test_without_outputs_only_what_is_asked_for_is_done():
    class Silent(Scripted):
        def reference_outputs(self):
            return None

    assert plans_of(Silent({}))[0].corrections == ()
    assert plans_of(Silent({}), {BIAS: "auto", WEIGHT: True})[0].corrections == (WEIGHT,)
