import numpy as np
import pytest

from inc_autotune.core.analysis.weight_shares import (
    operator_weights,
    percent,
    skipped_operators,
    weight_shares,
    with_share,
)
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.tuner import tune
from inc_autotune.testing import MinimalNumpyAdaptor, NumpyAdaptor, random_model


def test_shares_add_up_to_one():
    shares = weight_shares({"a": {"w": 30}, "b": {"x": 10, "y": 50}, "c": {"z": 10}}, {"a": "int8"})
    assert shares == pytest.approx({"a": 0.3, "b": 0.6, "c": 0.1})


def test_a_weight_that_operators_of_one_form_share_counts_once():
    assert weight_shares({"a": {"w": 30}, "b": {"w": 30}, "c": {"z": 30}}, {}) == {"a": 0.5, "b": 0.0, "c": 0.5}


def test_a_weight_that_is_stored_in_two_forms_counts_in_both():
    assert weight_shares({"a": {"w": 30}, "b": {"w": 30}}, {"a": "int8"}) == {"a": 0.5, "b": 0.5}


def test_without_weights_there_are_no_shares():
    assert weight_shares({"a": {}}, {}) == weight_shares({}, {}) == {}


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.999, "99 %"), (0.29, "29 %"), (0.004, "< 1 %"), (0, "0 %")]
)
def test_all_is_only_said_of_all(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(("share", "text"), [(0.5, "why (50 % of the weights)"), (0.001, "why"), (None, "why")])
def test_a_share_to_speak_of_stands_in_the_reason(share, text):
    assert with_share("why", share) == text


class WithRecurrence(NumpyAdaptor):
    """Beside the layers of the model an operator that cannot be quantized and has three quarters of the weights."""

    def skipped(self, model):
        return {"lstm": "LSTM has no quantized form here"}

    def operator_type(self, model, name):
        return "LSTM"

    def operator_weights(self, model):
        own = super().operator_weights(model)
        return {"lstm": {"weight": 3 * sum(sum(each.values()) for each in own.values())}, **own}


def result(adaptor, scores=(1.0, 1.0), **given):
    returned = iter(scores)
    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, **given)
    return tune(adaptor, random_model(), data, lambda model: next(returned), arguments).result


def test_the_first_lines_say_how_much_is_int8_and_what_is_not():
    tuned = result(WithRecurrence())
    assert tuned.weight_shares == pytest.approx({"fp32": 0.75, "int8": 0.25})
    assert str(tuned).splitlines()[1] == "int8: 25 % of the weights; largest in fp32: lstm (LSTM) 75 %"
    assert tuned.fallbacks["lstm"] == "LSTM has no quantized form here (75 % of the weights)"
    assert {each.name: each.weight_share for each in tuned.operators}["dense0"] == pytest.approx(1 / 16)


def test_all_quantized_says_so_in_one_figure():
    assert str(result(NumpyAdaptor())).splitlines()[1] == "int8: 100 % of the weights"


def test_only_the_largest_in_fp32_are_named():
    rule = {"dense[0-2]": {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}}
    line = str(result(WithRecurrence(), op_name_dict=rule)).splitlines()[1]
    assert line == (
        "int8: 6 % of the weights; largest in fp32: lstm (LSTM) 75 %, dense0 (Dense) 6 %, dense1 (Dense) 6 %, ..."
    )


def test_an_adaptor_that_does_not_know_weights_claims_nothing():
    tuned = result(MinimalNumpyAdaptor())
    assert tuned.weight_shares == operator_weights(MinimalNumpyAdaptor(), random_model()) == {}
    assert "of the weights" not in str(tuned)
    assert {each.weight_share for each in tuned.operators} == {None}


def test_the_reasons_of_skipped_operators_come_with_their_share_before_anything_runs():
    reasons = skipped_operators(WithRecurrence(), random_model())
    assert reasons == {"lstm": "LSTM has no quantized form here (75 % of the weights)"}
