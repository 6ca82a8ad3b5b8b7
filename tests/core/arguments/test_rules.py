from __future__ import annotations

import pytest

from inc_autotune.core.arguments.autotune import AutotuneArguments, validate_arguments
from inc_autotune.core.errors import ArgumentError


def validate(**rules) -> AutotuneArguments:
    return validate_arguments(strategies=("auto",), backends=("default",), **rules)


def test_operator_rules():
    rules = validate(
        op_type_dict={"Conv.*": {"weight": {"dtype": "int4"}, "activation": {"dtype": ["uint4"]}}},
        op_name_dict={r"layer1\.0\.conv": {"activation": {"algorithm": ("kl", "minmax"), "quant_mode": "static"}}},
    )
    assert rules.op_type_dict["Conv.*"].constraints() == {
        ("weight", "dtype"): ("int4",),
        ("activation", "dtype"): ("uint4",),
    }
    assert rules.op_name_dict[r"layer1\.0\.conv"].constraints() == {
        ("activation", "algorithm"): ("kl", "minmax"),
        ("activation", "quant_mode"): ("static",),
    }


@pytest.mark.parametrize("name", ["op_type_dict", "op_name_dict"])
@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({"Conv2d": {"weight": {"dtype": ["int44"]}}}, "Conv2d.weight.dtype: unknown dtype 'int44'"),
        ({"Conv2d": {"weight": {"dtype": ["int44"]}}}, "Did you mean 'int4'?"),
        ({"a.b": {"weight": {"dtype": []}}}, "'a.b'.weight.dtype: the list is empty"),
        ({"Conv2d": {"weight": {"dtype": [8]}}}, "8 is an int, not a str"),
        ({"Conv2d": {"weight": {"scheme": "symmetric"}}}, "Allowed: one or a list of 'sym', 'asym'"),
        ({"Conv2d": {"weight": {"granularity": "per_chanel"}}}, "Did you mean 'per_channel'?"),
        ({"Conv2d": {"activation": {"algorithm": "kll"}}}, "Did you mean 'kl'?"),
        ({"Conv2d": {"activation": {"quant_mode": "statik"}}}, "Did you mean 'static'?"),
        ({"Conv2d": {"weight": {"quant_mode": "static"}}}, "Conv2d.weight: unknown key 'quant_mode'"),
        ({"Conv2d": {"wieght": {}}}, "Did you mean 'weight'?"),
        ({"Conv2d": {"weight": "fp32"}}, "Conv2d.weight: 'fp32' is a str, not a dict"),
        ({"Conv2d": {}}, "Conv2d: the rule names nothing"),
        ({"Conv2d": {"weight": {}}}, "Conv2d: the rule names nothing"),
        ({"Conv2d": "fp32"}, "Conv2d: 'fp32' is a str, not a dict"),
        ({"(conv": {}}, "'(conv' is not a regular expression"),
        ({3: {}}, "key 3 is an int, not a str"),
        (["Conv2d"], "['Conv2d'] is a list, not a dict"),
    ],
)
def test_bad_operator_rules(name, rules, problem):
    with pytest.raises(ArgumentError) as caught:
        validate(**{name: rules})
    assert type(caught.value) is ArgumentError
    text = str(caught.value)
    assert text.startswith(f"{name}=")
    assert problem in text


def test_malformed_rules_are_argument_errors():
    with pytest.raises(ArgumentError, match="Did you mean 'weight'"):
        validate(op_type_dict={"Linear": {"wieght": {}}})
