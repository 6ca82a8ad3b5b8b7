from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import (
    AccuracyCriterion,
    AutotuneArguments,
    SmoothQuantArgs,
    validate_arguments,
)
from inc_autotune.core.errors import ArgumentError
from tests.rfc import GLOBAL_ALPHAS, LAYER_WISE


def validate(**arguments) -> AutotuneArguments:
    return validate_arguments(
        strategies=("auto", "basic", "mse"),
        backends=("default", "ipex"),
        recipe_names=("one_of_a_framework",),
        **arguments,
    )


def message(**arguments) -> str:
    with pytest.raises(ArgumentError) as caught:
        validate(**arguments)
    assert type(caught.value) is ArgumentError
    return str(caught.value)


def smoothquant(value) -> SmoothQuantArgs:
    result = validate(smoothquant_args=value).smoothquant_args
    assert result is not None
    return result


def test_defaults():
    arguments = validate()
    assert arguments.sampling_sizes == (100,)
    assert arguments.accuracy_criterion == AccuracyCriterion(relative=0.01)
    assert arguments.smoothquant_args is None
    assert (arguments.tuning_time, arguments.max_trials, arguments.seed) == (0, 100, 0)
    assert (arguments.strategy, arguments.approach, arguments.backend, arguments.device) == (
        "auto", "auto", "default", "cpu",
    )  # fmt: skip
    assert (arguments.op_type_dict, arguments.op_name_dict, arguments.recipes) == ({}, {}, {})
    assert (arguments.capability, arguments.excluded_precisions, arguments.objective) == (None, (), "performance")
    assert (arguments.storage, arguments.study_name, arguments.progress) == (None, None, True)


def test_none_is_the_default_where_the_call_has_none():
    names = (
        "op_type_dict", "op_name_dict", "smoothquant_args", "recipes", "sampling_sizes", "accuracy_criterion",
        "capability", "storage", "study_name",
    )  # fmt: skip
    assert validate(**dict.fromkeys(names)) == validate()


def test_smoothquant_defaults_are_those_of_the_rfc():
    arguments = smoothquant({})
    assert (arguments.alpha, arguments.folding) == ("auto", None)
    auto = arguments.auto_alpha_args
    assert (auto.init_alpha, auto.alpha_min, auto.alpha_max, auto.alpha_step) == (0.5, 0.0, 1.0, 0.1)
    assert (auto.shared_criterion, auto.enable_blockwise_loss) == ("mean", False)
    assert auto.forms == ("exponents", "norm", "shift")
    for given, expected in (([], ()), ("norm", ("norm",)), (["shift", "norm", "shift"], ("shift", "norm"))):
        assert smoothquant({"auto_alpha_args": {"forms": given}}).auto_alpha_args.forms == expected


def test_rfc_settings():
    assert smoothquant(GLOBAL_ALPHAS).alpha == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    auto = smoothquant(LAYER_WISE).auto_alpha_args
    assert (auto.init_alpha, auto.alpha_min, auto.alpha_max, auto.alpha_step) == (0.8, 0.8, 0.99, 0.01)


@pytest.mark.parametrize("left_out", ["init_alpha", "enable_blockwise_loss", "alpha_min", "shared_criterion"])
def test_every_key_is_optional(left_out):
    auto = {key: value for key, value in LAYER_WISE["auto_alpha_args"].items() if key != left_out}
    smoothquant({"auto_alpha_args": auto})


def test_the_same_dict_works_twice_and_is_not_changed():
    given_arguments = {
        "smoothquant_args": copy.deepcopy(LAYER_WISE),
        "recipes": {"one_of_a_framework": {"a": [1]}},
        "accuracy_criterion": {"higher_is_better": False},
        "op_type_dict": {"Linear": {"weight": {"dtype": ["fp32"]}}},
        "capability": {"int4": {"static": {}}},
    }
    before = copy.deepcopy(given_arguments)
    first = validate(**given_arguments)
    assert given_arguments == before
    assert validate(**given_arguments) == first
    given_arguments["capability"]["int4"].clear()
    given_arguments["recipes"]["one_of_a_framework"]["a"].clear()
    assert first.capability == before["capability"]
    assert first.recipes == before["recipes"]


def test_result_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        validate().seed = 3


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (np.float32(0.1), 0.1),
        (np.int64(1), 1.0),
        (np.array(0.5), 0.5),
        ("auto", "auto"),
        ([0, 1], (0.0, 1.0)),
        ((0.5,), (0.5,)),
        (np.array([0.5, 0.25]), (0.5, 0.25)),
        ([0.7, 0.1, 0.7, 0.1], (0.7, 0.1)),
        ([0.3, 0.1 + 0.2], (0.3,)),
        ([1.0000000000000002], (1.0,)),
    ],
)
def test_alpha(alpha, expected):
    result = smoothquant({"alpha": alpha}).alpha
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("alpha", "problem"),
    [
        (1.5, "1.5 is above 1"),
        (-0.1, "-0.1 is below 0"),
        (True, "True is a bool, not a number"),
        (np.True_, "is a bool, not a number"),
        (None, "it is None, not a number"),
        (float("nan"), "nan is not a finite number"),
        (float("inf"), "inf is not a finite number"),
        (10**400, "is not a finite number"),
        (1j, "1j is a complex, not a number"),
        ([], "the list is empty"),
        ([0.5, 2], "2 is above 1"),
        ([0.5, "auto"], "'auto' is a str, not a number"),
        ([[0.5]], "[0.5] is a list, not a number"),
        (np.zeros((2, 2)), "more than one dimension"),
        ({0.5, 0.6}, "has no order"),
        ("0.5", "unknown value '0.5'"),
        ("Auto", "Did you mean 'auto'?"),
        ({"min": 0}, "{'min': 0} is a dict, not a number"),
    ],
)
def test_bad_alpha(alpha, problem):
    text = message(smoothquant_args={"alpha": alpha})
    assert text.startswith("smoothquant_args={'alpha': ")
    assert ": alpha: " in text
    assert problem in text
    assert "\nAllowed: 'auto', a number from 0 to 1, or a list of such numbers." in text


@pytest.mark.parametrize(
    ("auto", "problem"),
    [
        ({"alpha_min": 0.9, "alpha_max": 0.1}, "auto_alpha_args: alpha_min 0.9 is above alpha_max 0.1"),
        ({"alpha_min": -1}, "auto_alpha_args.alpha_min: -1 is below 0"),
        ({"alpha_max": 1.1}, "auto_alpha_args.alpha_max: 1.1 is above 1"),
        ({"alpha_step": 0}, "auto_alpha_args.alpha_step: 0 is not above 0"),
        ({"alpha_step": 1.5}, "1.5 is above 1"),
        ({"alpha_step": 1e-5}, "makes 100000 alphas"),
        ({"alpha_step": True}, "True is a bool"),
        ({"init_alpha": 2}, "2 is above 1"),
        ({"init_alpha": "atuo"}, "Did you mean 'auto'?"),
        ({"shared_criterion": "maximum"}, "Allowed: 'min', 'mean', 'max'"),
        ({"enable_blockwise_loss": 1}, "1 is an int, not a bool"),
        ({"forms": ["exponent"]}, "Did you mean 'exponents'?"),
        ({"alpha_stp": 0.1}, "unknown key 'alpha_stp'"),
        ({"alpha_stp": 0.1}, "Did you mean 'alpha_step'?"),
        ({"do_blockwise": True}, "Did you mean 'enable_blockwise_loss'?"),
        ({3: 0.1}, "unknown key 3"),
        ([0.1], "[0.1] is a list, not a dict"),
    ],
)
def test_bad_auto_alpha_args(auto, problem):
    assert problem in message(smoothquant_args={"alpha": "auto", "auto_alpha_args": auto})


def test_init_alpha_auto_is_clamped_into_the_range():
    def init_alpha(**auto):
        return smoothquant({"auto_alpha_args": {"init_alpha": "auto", **auto}}).auto_alpha_args.init_alpha

    assert init_alpha() == 0.5
    assert init_alpha(alpha_min=0.8) == 0.8
    assert init_alpha(alpha_max=0.3) == 0.3


def test_key_one_level_too_high_names_the_right_place():
    assert "Did you mean 'auto_alpha_args'?" in message(smoothquant_args={"alpha_min": 0.1})


def test_unused_auto_alpha_args_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        smoothquant({"alpha": 0.5, "auto_alpha_args": {"alpha_min": 0.2}})
    assert "'auto_alpha_args' has no effect" in caplog.text


@pytest.mark.parametrize("value", [0.5, True, "auto", [0.5]])
def test_smoothquant_args_must_be_a_dict(value):
    assert "not a dict.\nAllowed: a dict with 'alpha'" in message(smoothquant_args=value)


def test_message_in_the_house_form():
    assert message(accuracy_criterion={"relativ": 0.01}) == (
        "accuracy_criterion={'relativ': 0.01}: unknown key 'relativ'.\n"
        "Allowed: 'relative' or 'absolute' (one of them, a number >= 0), 'higher_is_better' (bool). "
        "Did you mean 'relative'?"
    )


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({}, (0.01, None, True)),
        ({"relative": 0}, (0.0, None, True)),
        ({"absolute": np.float64(2.5)}, (None, 2.5, True)),
        ({"relative": None, "absolute": 1}, (None, 1.0, True)),
        ({"higher_is_better": False}, (0.01, None, False)),
        ({"relative": 1.5, "higher_is_better": False}, (1.5, None, False)),
    ],
)
def test_accuracy_criterion(criterion, expected):
    result = validate(accuracy_criterion=criterion).accuracy_criterion
    assert (result.relative, result.absolute, result.higher_is_better) == expected


@pytest.mark.parametrize(
    ("criterion", "problem"),
    [
        ({"relative": 0.01, "absolute": 1}, "both 'relative' and 'absolute' are given"),
        ({"relative": 1}, "tolerates the loss of the whole score"),
        ({"relative": -0.01}, "relative: -0.01 is below 0"),
        ({"relative": "1%"}, "'1%' is a str, not a number"),
        ({"absolute": float("inf")}, "inf is not a finite number"),
        ({"absolute": True}, "True is a bool"),
        ({"higher_is_better": "yes"}, "'yes' is a str, not a bool"),
        ({"tolerable_loss": 0.01}, "Did you mean 'relative'?"),
        (0.01, "0.01 is a float, not a dict"),
    ],
)
def test_bad_accuracy_criterion(criterion, problem):
    text = message(accuracy_criterion=criterion)
    assert text.startswith("accuracy_criterion=")
    assert problem in text
    assert "\nAllowed: " in text


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [(100, (100,)), ([300, 100, 300], (300, 100)), ((np.int32(5),), (5,)), (np.array([1, 2]), (1, 2)), (None, (100,))],
)
def test_sampling_sizes(sizes, expected):
    assert validate(sampling_sizes=sizes).sampling_sizes == expected


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("sampling_sizes", [], "the list is empty"),
        ("sampling_sizes", 0, "0 is below 1"),
        ("sampling_sizes", [1.5], "1.5 is a float, not a whole number"),
        ("sampling_sizes", "100", "'100' is a str, not a whole number"),
        ("sampling_sizes", True, "True is a bool"),
        ("tuning_time", -1, "-1 is below 0"),
        ("tuning_time", float("nan"), "nan is not a finite number"),
        ("tuning_time", float("inf"), "inf is not a finite number"),
        ("tuning_time", "1h", "Allowed: seconds"),
        ("max_trials", 0, "0 is below 1"),
        ("max_trials", 1e3, "1000.0 is a float, not a whole number"),
        ("max_trials", None, "it is None"),
        ("seed", -1, "-1 is below 0"),
        ("seed", 2**32, "is above 4294967295"),
        ("seed", 1.0, "not a whole number"),
        ("storage", 3, "3 is an int, not a str"),
        ("storage", " ", "is empty"),
        ("study_name", "", "is empty"),
        ("strategy", "basik", "Did you mean 'basic'?"),
        ("strategy", 1, "Allowed: 'auto', 'basic', 'mse'"),
        ("backend", "ipx", "unknown backend 'ipx'.\nAllowed: 'default', 'ipex'. Did you mean 'ipex'?"),
        ("approach", "Static", "Did you mean 'static'?"),
        ("objective", "accuracy", "Allowed: 'performance', 'modelsize', 'footprint'"),
        ("device", 0, "0 is an int, not a str"),
        ("progress", 1, "1 is an int, not a bool"),
        ("on_trial", 1, "Allowed: a function that is given each trial"),
        ("capability", 3, "3 is an int.\nAllowed: the path of a YAML file"),
        ("capability", "", "is empty"),
        ("excluded_precisions", ["fp32"], "fp32 cannot be excluded"),
        ("excluded_precisions", ["bf61"], "Did you mean 'bf16'?"),
        ("excluded_precisions", [16], "16 is an int, not a str"),
    ],
)
def test_bad_scalar(name, value, problem):
    text = message(**{name: value})
    assert text.startswith(f"{name}={value!r}: ")
    assert problem in text
    assert "\nAllowed: " in text


@pytest.mark.parametrize("value", ["bf16", ["bf16"], ("bf16", "bf16"), {"bf16"}])
def test_excluded_precisions(value):
    assert validate(excluded_precisions=value).excluded_precisions == ("bf16",)


@pytest.mark.parametrize("value", [(), [], None])
def test_no_excluded_precisions(value):
    assert validate(excluded_precisions=value).excluded_precisions == ()


def test_paths_and_devices_are_taken_as_they_come():
    class Device:
        type = "cuda"

        def __str__(self):
            return "cuda:1"

    arguments = validate(storage=Path("run.journal"), capability=Path("my.yaml"), device=Device())
    assert (arguments.storage, arguments.capability, arguments.device) == ("run.journal", Path("my.yaml"), "cuda:1")


def test_unknown_argument():
    assert message(smooth_quant_args={}).startswith("unknown argument 'smooth_quant_args'.\nAllowed: 'op_type_dict'")
    assert message(smooth_quant_args={}).endswith("Did you mean 'smoothquant_args'?")


def test_smooth_quant_recipe_becomes_smoothquant_args():
    arguments = validate(
        recipes={"smooth_quant": True, "smooth_quant_args": {"alpha": 0.5}, "fast_bias_correction": False}
    )
    assert arguments.smoothquant_args == SmoothQuantArgs(alpha=0.5)
    assert arguments.recipes == {"fast_bias_correction": False}


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        ({"smooth_quant": True}, SmoothQuantArgs()),
        ({"smooth_quant": True, "smooth_quant_args": None}, SmoothQuantArgs()),
        ({"smooth_quant_args": {"alpha": [0.5]}}, SmoothQuantArgs(alpha=[0.5])),
        ({"smooth_quant": False}, None),
        ({"smooth_quant": False, "smooth_quant_args": {"alpha": 0.5}}, None),
        ({}, None),
    ],
)
def test_smooth_quant_recipe_switch(recipes, expected):
    assert validate(recipes=recipes).smoothquant_args == expected


def test_corrections():
    assert validate().corrections == {"fast_bias_correction": "auto", "weight_correction": "auto"}
    given = validate(recipes={"fast_bias_correction": True, "weight_correction": False}).corrections
    assert given == {"fast_bias_correction": True, "weight_correction": False}


def test_smooth_quant_recipe_beside_smoothquant_args():
    both = validate(recipes={"smooth_quant": True}, smoothquant_args={"alpha": 1})
    assert both.smoothquant_args == SmoothQuantArgs(alpha=1)
    own = {"smooth_quant_args": {"alpha": 0.5}}
    assert "smoothquant_args is given as well" in message(recipes=own, smoothquant_args={"alpha": 1})
    assert "switched off" in message(recipes={"smooth_quant": False}, smoothquant_args={})


@pytest.mark.parametrize(
    ("recipes", "problem"),
    [
        ({"smooth_quant": 1}, "smooth_quant: 1 is an int, not a bool"),
        ({"smooth_quant_args": {"alpha": 2}}, "smooth_quant_args.alpha: 2 is above 1"),
        ({"smooth_quant": False, "smooth_quant_args": {"alhpa": 2}}, "smooth_quant_args: unknown key 'alhpa'"),
        ({"fast_bias_corection": True}, "Did you mean 'fast_bias_correction'?"),
        ({"fast_bias_correction": 1}, "1 is an int, neither a bool nor 'auto'.\nAllowed: True, False or 'auto'."),
        ({"fast_bias_correction": None}, "it is None, neither a bool nor 'auto'"),
        ({"weight_correction": "Auto"}, "unknown value 'Auto'.\nAllowed: True, False or 'auto'. Did you mean 'auto'?"),
        ([1], "[1] is a list, not a dict"),
    ],
)
def test_bad_recipes(recipes, problem):
    text = message(recipes=recipes)
    assert text.startswith("recipes=")
    assert problem in text


@pytest.mark.filterwarnings("error")
def test_dump_is_plain_data():
    rules = {"Linear": {"weight": {"dtype": "int8"}}}
    arguments = validate(op_type_dict=rules, smoothquant_args={"alpha": [0.5]}, excluded_precisions="bf16")
    dumped = arguments.model_dump(mode="json")
    assert json.loads(json.dumps(dumped)) == dumped
    assert dumped["smoothquant_args"]["alpha"] == [0.5]


@pytest.mark.parametrize(("algorithm", "expected"), [("minmax", False), ("kl", True), (["minmax", "percentile"], True)])
def test_needs_histogram(algorithm, expected):
    rules = {"fc": {"activation": {"algorithm": algorithm}}}
    assert validate(op_type_dict=rules).needs_histogram is expected
    assert validate(op_name_dict=rules).needs_histogram is expected
    assert validate().needs_histogram is False


def test_values_that_python_refuses_to_write():
    assert message(seed=10**5000).startswith("seed=<int>: <int> is above 4294967295.")
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    assert message(capability=nested).startswith("capability=<list>: the value has too many levels.")
    assert message(tuning_time=nested).startswith("tuning_time=<list>: <list> is a list, not a number.")


def test_long_values_are_shortened():
    text = message(smoothquant_args={"alpha": [2.0] * 10_000})
    assert len(text) < 600
    assert "2.0 is above 1" in text
