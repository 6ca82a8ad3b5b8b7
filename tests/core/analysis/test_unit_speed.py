import numpy as np
import pytest

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.unit_speed import measured_speeds, slow_units
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.units import Unit
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

INT8 = TensorConfig("int8", "sym", "per_channel", "minmax")
STATIC = OpConfig(INT8, TensorConfig("uint8", "asym", "per_tensor", "minmax"), "static")
WEIGHT_ONLY = OpConfig(INT8, TensorConfig("fp32"), "weight_only")


class Timed(NumpyAdaptor):
    """Units as fast as the test says."""

    def __init__(self, **speeds):
        super().__init__()
        self.speeds, self.asked = speeds, []

    def unit_speeds(self, units, expired=lambda: False):
        self.asked = [unit.name for unit in units]
        return {name: UnitSpeed(speed, "Dense 16x16 on 8x16") for name, speed in self.speeds.items()}


def unit(name, *others, default=STATIC):
    return Unit(name, tuple((each, "Dense") for each in (name, *others)), (default, FP32))


def judged(adaptor, units):
    return slow_units(units, measured_speeds(adaptor, units))


def test_every_operator_of_a_slow_unit_is_named_with_what_was_measured():
    reasons = judged(Timed(a=0.9, b=2.0), [unit("a", "a2"), unit("b")])
    assert set(reasons) == {"a", "a2"}
    assert reasons["a"] == reasons["a2"] == "int8 is not faster here: 0.90x of fp32 (Dense 16x16 on 8x16)"


@pytest.mark.parametrize(("speedup", "slow"), [(1.0, True), (1.019, True), (1.02, False), (1.5, False)])
def test_a_gain_of_two_percent_is_enough(speedup, slow):
    assert ("a" in judged(Timed(a=speedup), [unit("a"), unit("b")])) == slow


def test_what_was_not_measured_is_not_judged():
    assert judged(Timed(), [unit("a"), unit("b")]) == {}


def test_a_model_keeps_its_integers_where_all_of_it_is_slow():
    assert judged(Timed(a=0.5, b=0.5), [unit("a"), unit("b")]) == {}


def test_only_what_is_there_for_its_speed_is_measured():
    class Simulating(Timed):
        def is_simulated(self, name, config):
            return name == "simulated"

    adaptor = Simulating()
    units = [unit("plain"), unit("simulated"), unit("table", default=WEIGHT_ONLY), unit("float", default=FP32)]
    measured_speeds(adaptor, units)
    assert adaptor.asked == ["plain"]


def test_a_slow_unit_stays_fp32_without_an_evaluation_and_the_result_says_why():
    scores = iter([1.0, 1.0])
    data = [np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False)
    result = tune(Timed(dense1=0.8, dense2=1.8), random_model(), data, lambda model: next(scores), arguments).result
    assert result.evaluations == 2
    assert list(result.fallbacks) == ["dense1"]
    assert result.fallbacks["dense1"].startswith("int8 is not faster here: 0.80x")


@pytest.mark.parametrize("objective", ["modelsize", "footprint"])
def test_speed_decides_nothing_under_another_objective(objective):
    data = [np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, objective=objective)
    adaptor = Timed(dense1=0.8)
    assert not tune(adaptor, random_model(), data, None, arguments).result.fallbacks
    assert adaptor.asked == []


def test_a_slow_operator_whose_rule_asks_for_int8_by_name_gets_it():
    class Slow(NumpyAdaptor):
        def unit_speeds(self, units, expired=lambda: False):
            return {unit.name: UnitSpeed(0.5, "Dense") for unit in units if unit.name in ("dense0", "dense1")}

    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    rule = {"dense0": {"weight": {"dtype": ["int8"]}}}
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, op_name_dict=rule)
    fallbacks = tune(Slow(), random_model(), data, None, arguments).result.fallbacks
    assert list(fallbacks) == ["dense1"]
    assert "not faster here: 0.50x" in fallbacks["dense1"]


def test_short_units_are_not_judged_without_the_whole_model():
    speeds = {"a": UnitSpeed(0.5, "2 short ones", is_short=True), "b": UnitSpeed(0.9, "Dense")}
    assert list(slow_units([unit("a"), unit("b"), unit("c")], speeds)) == ["b"]
