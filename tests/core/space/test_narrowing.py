from __future__ import annotations

import logging

import pytest
import yaml

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.space.capability import load_capability
from inc_autotune.core.space.narrowing import narrow_options
from tests.core.space.capabilities import BF16, INT4, INT4_CONV, PYTORCH, approaches, dtypes

CONV, OTHER_CONV, LINEAR, EMBEDDING = (
    ("conv1", "Conv2d"),
    ("layer.0.conv", "Conv2d"),
    ("fc", "Linear"),
    ("e", "Embedding"),
)


@pytest.fixture(scope="module")
def options():
    capability = load_capability(PYTORCH, "2.13", {**yaml.safe_load(INT4), "bf16": ["Linear"]})
    return {operator: capability.options(operator[1]) for operator in (CONV, OTHER_CONV, LINEAR, EMBEDDING)}


def narrow(options, op_type_dict=None, op_name_dict=None, **others):
    """`narrow_options` with rules as a user writes them."""
    arguments = validate_arguments(
        strategies=("auto",), backends=("default",), op_type_dict=op_type_dict, op_name_dict=op_name_dict
    )
    return narrow_options(options, arguments.op_type_dict, arguments.op_name_dict, **others)


def rule(weight=None, activation=None, **activation_properties):
    result = {"weight": {"dtype": weight}} if weight else {}
    if activation or activation_properties:
        result["activation"] = {**({"dtype": activation} if activation else {}), **activation_properties}
    return result


def test_without_rules(options):
    before = dict(options)
    narrowed = narrow(options)
    assert options == before
    assert list(narrowed) == list(options)
    assert narrowed[CONV] == options[CONV]
    assert approaches(narrowed[LINEAR]) == ["static", "dynamic", None]
    assert narrowed[EMBEDDING] == (FP32,)


@pytest.mark.parametrize(
    ("approach", "linear", "conv", "embedding"),
    [
        ("auto", ["static", "dynamic", None], ["static", None], [None]),
        ("static", ["static", None], ["static", None], [None]),
        ("dynamic", ["dynamic", None], [None], [None]),
        ("weight_only", ["weight_only", None], [None], ["weight_only", None]),
    ],
)
def test_approach(options, approach, linear, conv, embedding):
    narrowed = narrow(options, approach=approach)
    assert approaches(narrowed[LINEAR]) == linear
    assert approaches(narrowed[CONV]) == conv
    assert approaches(narrowed[EMBEDDING]) == embedding
    assert all(found[-1] == FP32 for found in narrowed.values())


def test_include_weight_only(options):
    narrowed = narrow(options, include_weight_only=True)
    assert narrowed[EMBEDDING] == options[EMBEDDING]
    assert narrowed[LINEAR] == options[LINEAR]


def test_int4_by_rule(options):
    narrowed = narrow(options, {"Conv2d": rule(["int4"], ["uint4"])})
    assert narrowed[CONV] == (INT4_CONV, FP32)
    assert narrowed[LINEAR] == tuple(option for option in options[LINEAR] if option.approach != "weight_only")


def test_fp32_excludes_an_operator(options):
    narrowed = narrow(options, {"Conv2d": rule(["fp32"], ["fp32"])}, {"fc": rule("fp32")})
    assert narrowed[CONV] == narrowed[OTHER_CONV] == narrowed[LINEAR] == (FP32,)


def test_a_name_goes_before_its_type(options):
    narrowed = narrow(options, {"Conv2d": rule("fp32", "fp32")}, {"conv1": rule("int8")})
    assert dtypes(narrowed[CONV]) == ["int8", "fp32"]
    assert narrowed[OTHER_CONV] == (FP32,)


def test_rules_of_type_and_name_combine(options):
    narrowed = narrow(options, {"Linear": rule(algorithm="kl")}, {"fc": rule(scheme=["sym"])})
    quantized = [option.activation for option in narrowed[LINEAR] if option.is_quantized]
    assert {(activation.algorithm, activation.scheme) for activation in quantized} == {("kl", "sym")}
    assert narrowed[LINEAR][-1] == FP32


def test_a_quantized_rule_keeps_fp32_but_not_bf16(options):
    assert dtypes(narrow(options, {"Linear": rule("int8")})[LINEAR]) == ["int8", "fp32"]
    assert dtypes(narrow(options, {"Linear": rule(["int8", "bf16"])})[LINEAR]) == ["int8", "bf16", "fp32"]
    assert narrow(options, {"Linear": rule("bf16")})[LINEAR] == (BF16, FP32)


def test_patterns_match_in_full(options):
    narrowed = narrow(options, {"Conv": rule("fp32")}, {r"layer\.\d+\..*": rule("fp32")})
    assert narrowed[CONV] == options[CONV]
    assert narrowed[OTHER_CONV] == (FP32,)


def test_quant_mode_goes_before_approach(options):
    narrowed = narrow(options, {"Linear": rule(quant_mode="dynamic")}, approach="static")
    assert {option.approach for option in narrowed[LINEAR] if option.is_quantized} == {"dynamic"}
    assert approaches(narrowed[CONV]) == ["static", None]


def test_a_rule_with_its_dtype_asks_for_a_weight_only_option(options):
    assert dtypes(narrow(options, {"Embedding": rule("uint8")})[EMBEDDING]) == ["uint8", "fp32"]
    assert dtypes(narrow(options, {"Embedding": rule("uint4")})[EMBEDDING]) == ["uint4", "fp32"]
    assert narrow(options, {"Embedding": rule(quant_mode="weight_only")})[EMBEDDING] == options[EMBEDDING]


def test_a_wide_pattern_leaves_out_what_cannot_be_quantized(options):
    narrowed = narrow(options, {".*": rule("int8")})
    assert narrowed[EMBEDDING] == (FP32,)
    assert dtypes(narrowed[CONV]) == ["int8", "fp32"]


def test_excluded_precisions(options):
    assert dtypes(narrow(options, excluded_precisions=["bf16"])[LINEAR]) == ["int8", "fp32"]
    assert dtypes(narrow(options, excluded_precisions=["int8"])[CONV]) == ["int4", "fp32"]
    assert dtypes(narrow(options, excluded_precisions=["uint8"])[LINEAR]) == ["fp32"]


def test_an_operator_without_options_is_fp32():
    assert narrow({("n", "LayerNorm"): ()}) == {("n", "LayerNorm"): (FP32,)}


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({"Linear": rule("int5")}, ["op_type_dict['Linear']: weight dtype 'int5' is not in", "int8", "capability="]),
        ({"Linear": rule(["int8", "int5"])}, ["weight dtype 'int5' is not in the capability"]),
        ({".*": rule("uint8")}, ["op_type_dict['.*']: operator", "has no option with weight dtype uint8"]),
        (
            {"Conv2d": rule("int4", "uint8")},
            ["'conv1' (Conv2d) has no option with weight dtype int4, activation dtype"],
        ),
        ({"Conv2d": rule(quant_mode="dynamic")}, ["activation quant_mode 'dynamic' is not in"]),
        (
            {"Linear": rule(algorithm="kl", quant_mode="dynamic")},
            ["activation algorithm kl, activation quant_mode dyn"],
        ),
        ({"Linear": rule("int4", "uint8")}, ["weight dtype int4, activation dtype uint8"]),
        ({"Embedding": rule("int8")}, ["'int8' is not in", "weight uint8 asym", "Did you mean 'uint8'?"]),
        ({"Embedding": rule(algorithm="minmax")}, ["op_type_dict['Embedding']", "algorithm 'minmax' is not in"]),
    ],
)
def test_a_rule_outside_the_capability(options, given, problems):
    with pytest.raises(CapabilityError) as caught:
        narrow(options, given)
    for problem in problems:
        assert problem in str(caught.value)
    assert "The capability offers: " in str(caught.value)


def test_a_rule_against_approach_or_excluded_precisions(options):
    with pytest.raises(CapabilityError, match=r"algorithm kl under approach='dynamic'\."):
        narrow(options, {"Linear": rule(algorithm="kl")}, approach="dynamic")
    with pytest.raises(CapabilityError, match=r"weight dtype int8 under excluded_precisions=\['int8'\]\."):
        narrow(options, {"Linear": rule("int8")}, excluded_precisions=["int8"])


def test_an_error_names_every_rule_that_took_part(options):
    with pytest.raises(CapabilityError, match=r"^op_type_dict\['Linear'\], op_name_dict\['fc'\]: operator 'fc'"):
        narrow(options, {"Linear": rule(algorithm="kl")}, {"fc": rule(quant_mode="dynamic")})


def test_a_pattern_without_operator_is_logged(options, caplog):
    with caplog.at_level(logging.WARNING):
        narrow(options, {"Conv2D": rule("fp32")}, {"layer.0.cnv": rule("fp32"), "zzz": rule("int8")})
    assert "op_type_dict['Conv2D'] matches no operator of the model. Did you mean 'Conv2d'?" in caplog.text
    assert "op_name_dict['layer.0.cnv'] matches no operator of the model. Did you mean 'layer.0.conv'?" in caplog.text
    assert "op_name_dict['zzz'] matches no operator of the model. The model has: 'conv1'," in caplog.text


def test_validated_rules_are_taken_as_they_are(options):
    arguments = validate_arguments(
        strategies=("auto",), backends=("default",), op_type_dict={"Conv2d": rule("int4")}, op_name_dict=None
    )
    narrowed = narrow_options(options, arguments.op_type_dict, arguments.op_name_dict, arguments.approach)
    assert narrowed[CONV] == (INT4_CONV, FP32)


def test_of_several_integer_types_of_a_rule_the_smallest_may_come_first(options):
    both = {"Conv2d": rule(["int8", "int4"])}
    usual, smallest = (narrow(options, both, smallest_first=flag)[CONV] for flag in (False, True))
    assert usual[0].weight.dtype == "int8"
    assert [*dict.fromkeys(dtypes(smallest))] == ["int4", "int8", "fp32"]
    assert set(usual) == set(smallest)
    # Without a rule that names several, the capability decides.
    assert narrow(options, smallest_first=True)[CONV] == options[CONV]
