import pytest

from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.units import Assignment, build_space

INT8 = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
SYM = OpConfig(INT8.weight, TensorConfig("uint8", "sym", "per_tensor", "minmax"), "static")


def space():
    options = {
        ("q", "Linear"): (INT8, FP32),
        ("k", "Linear"): (INT8, FP32),
        ("v", "Linear"): (SYM, FP32),
        ("out", "Linear"): (INT8, FP32),
        ("head", "Linear"): (FP32,),
    }
    return build_space(options, [("q", "k", "v"), ("out",)])


def test_a_group_is_one_unit_but_for_members_with_rules_of_their_own():
    assert [unit.operator_names for unit in space().units] == [("q", "k"), ("v",), ("out",)]


def test_an_operator_without_integer_option_is_no_unit():
    assert "head" not in space().by_name


def test_an_operator_that_may_only_become_bf16_is_a_unit():
    bf16 = OpConfig(TensorConfig("bf16"), TensorConfig("bf16"))
    assert build_space({("head", "Linear"): (bf16, FP32)}).default(8).by_unit["head"] == bf16


def test_nothing_to_quantize_is_an_error():
    with pytest.raises(ModelError, match="nothing to quantize"):
        build_space({("head", "Linear"): (FP32,)})
    with pytest.raises(ModelError, match="it has no operator of a type"):
        build_space({})


def test_nothing_to_quantize_comes_with_the_reasons():
    skipped = {"q": "is inside a loop", "k": "is inside a loop", "out": "has no weight"}
    with pytest.raises(
        ModelError, match=r"Left out: q and 1 more: is inside a loop; out: has no weight\. Check the model"
    ):
        build_space({}, skipped=skipped)


def test_assignment_round_trips_and_its_digest_follows_its_content():
    default = space().default(100, {"q": 0.5})
    again = Assignment.from_dict(default.to_dict())
    assert again == default
    assert again.digest == default.digest
    assert default.replace({"out": FP32}).digest != default.digest
    assert space().default(50, {"q": 0.5}).digest != default.digest


def test_tune_cfg_has_the_adaptor_guides_form():
    cfg = space().tune_cfg(space().without(space().default(100, {"q": 0.5}), ["out"]))
    assert cfg["op"][("k", "Linear")]["activation"]["quant_mode"] == "static"
    assert cfg["op"][("out", "Linear")] == {"weight": {"dtype": "fp32"}, "activation": {"dtype": "fp32"}}
    assert cfg["calib_iteration"] == 100
    assert cfg["recipe_cfgs"] == {"smooth_quant": True, "smooth_quant_args": {"alpha": {"q": 0.5, "k": 0.5}}}


def test_only_keeps_the_named_units():
    chosen = space()
    assert chosen.only(chosen.default(1), ["v"]).fallback_units == ("q", "out")
