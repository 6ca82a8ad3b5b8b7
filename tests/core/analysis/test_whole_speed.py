"""Units that make the whole model slower, with speeds of the test's own."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.whole_speed import losing_chains, slowing_units
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.units import Unit
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

INT8 = OpConfig(TensorConfig("int8"), TensorConfig("uint8"), "static")


class Machine:
    """A model whose units take other seconds in integers than alone; counts how often it is measured."""

    def __init__(self, fp32, integer, alone=None):
        self.fp32, self.integer, self.asked = fp32, integer, []
        alone = alone or {name: fp32[name] / integer[name] for name in fp32}
        self.units = [Unit(name, ((name, "Dense"),), (INT8, FP32)) for name in fp32]
        self.speeds = {name: UnitSpeed(speed, f"Dense {name}") for name, speed in alone.items()}

    def gain(self, fallen):
        self.asked.append(tuple(fallen))
        taken = sum(self.fp32[name] if name in fallen else self.integer[name] for name in self.fp32)
        return sum(self.fp32.values()) / taken

    def slowing(self):
        return slowing_units(self.units, self.speeds, self.gain)


def test_a_model_that_is_faster_gives_nothing_up():
    machine = Machine({"a": 1.0, "b": 1.0}, {"a": 1.2, "b": 0.2})
    assert machine.slowing() == {}
    assert machine.asked == [()]


def test_what_loses_alone_falls_back_and_the_reason_says_what_was_measured():
    machine = Machine({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 4.0, "b": 0.5, "c": 0.6})
    reasons = machine.slowing()
    assert list(reasons) == ["a"]
    assert reasons["a"] == (
        "the whole model is slower in int8 here: 0.59x of fp32 with the 1 units of this reason, 1.43x without; "
        "0.25x alone (Dense a)"
    )


def test_the_least_gaining_of_the_others_follow_where_that_is_not_enough():
    """Alone all are faster; inside the model three of them wait for something."""
    fp32 = dict.fromkeys("abcdefgh", 1.0)
    integer = {**dict.fromkeys("abc", 3.0), **dict.fromkeys("defgh", 0.9)}
    machine = Machine(fp32, integer, {name: 1.1 + index / 10 for index, name in enumerate("abcdefgh")})
    assert {"a", "b", "c"} <= set(machine.slowing())
    assert set(machine.slowing()) < set("abcdefgh")


def test_units_of_equal_speed_share_a_verdict():
    names = [f"u{index}" for index in range(20)]
    fp32, integer = dict.fromkeys(names, 1.0) | {"long": 10.0}, dict.fromkeys(names, 2.0) | {"long": 5.0}
    machine = Machine(fp32, integer)
    assert set(machine.slowing()) == set(names)
    assert len(machine.asked) == 2


def test_what_nothing_mends_is_left_as_it_is():
    machine = Machine({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 2.0, "b": 3.0, "c": 4.0})
    assert machine.slowing() == {}
    assert all(len(fallen) < 3 for fallen in machine.asked), "the fp32 model itself is no candidate"


@pytest.mark.parametrize("first", [0.91, 0.96, 1.02])
def test_near_the_line_the_median_of_three_decides(first):
    machine = Machine({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 2.0})
    gains = iter([first, 0.99, 0.98])
    assert slowing_units(machine.units, machine.speeds, lambda fallen: next(gains)) == {}
    assert next(gains, None) is None


def test_what_is_not_measured_is_not_judged():
    machine = Machine({"a": 1.0, "b": 1.0}, {"a": 9.0, "b": 1.0})
    assert slowing_units(machine.units, machine.speeds, lambda fallen: None) == {}


def test_neighbours_whose_speed_alone_is_unknown_are_judged_together():
    names = [f"u{index}" for index in range(16)]
    fp32 = dict.fromkeys(names, 1.0)
    machine = Machine(fp32, {name: 5.0 if name in names[4:8] else 0.5 for name in names})
    machine.speeds = {}
    assert list(machine.slowing()) == names[4:8]
    assert len(machine.asked) == 1 + 8 + 1


def test_units_of_known_speed_fall_back_beside_those_without():
    fp32 = dict.fromkeys("abcdefgh", 1.0)
    machine = Machine(fp32, {**dict.fromkeys("ab", 4.0), **dict.fromkeys("cdefgh", 0.9)})
    machine.speeds = {"a": machine.speeds["a"], "h": machine.speeds["h"]}
    assert set(machine.slowing()) == {"a", "b"}


class Timed(NumpyAdaptor):
    """Units of which `dense0` and `dense1` are slow together, and a model in which that shows."""

    def __init__(self, *, seconds):
        super().__init__()
        self.seconds = seconds

    def unit_speeds(self, units, expired=lambda: False):
        short = UnitSpeed(0.4, "Dense 16x16 on 8x16 and 1 more", is_short=True)
        return {"dense0": short, "dense1": short, "dense2": UnitSpeed(2.0, "Dense"), "dense3": UnitSpeed(2.0, "Dense")}

    def measure(self, models):
        def taken(layer):
            return 1.0 if layer.transform.__name__ == "identity" else self.seconds[layer.name]

        return [sum(taken(layer) for layer in model.layers) for model in models]


SLOW = {"dense0": 4.0, "dense1": 4.0, "dense2": 0.5, "dense3": 0.5}


def run(adaptor, **given):
    scores = itertools.repeat(1.0)
    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, **given)
    return tune(adaptor, random_model(), data, lambda model: next(scores), arguments).result


def test_short_units_fall_back_where_the_whole_model_is_slower_without_an_evaluation():
    result = run(Timed(seconds=SLOW))
    assert set(result.fallbacks) == {"dense0", "dense1"}
    assert result.fallbacks["dense0"].startswith(
        "the whole model is slower in int8 here: 0.44x of fp32 with the 2 units"
    )
    assert result.speedup == pytest.approx(4 / 3)
    assert (result.evaluations, result.gained) == (2, True)
    assert str(result).startswith("Goal met: ")


def test_short_units_stay_integers_where_the_model_is_faster():
    assert not run(Timed(seconds={**SLOW, "dense0": 1.2, "dense1": 1.2})).fallbacks


def test_another_objective_asks_for_no_speed():
    assert not run(Timed(seconds=SLOW), objective="modelsize").fallbacks


def test_a_rule_by_name_is_obeyed():
    rule = {"dense0": {"weight": {"dtype": ["int8"]}}}
    assert "dense0" not in run(Timed(seconds=SLOW), op_name_dict=rule).fallbacks


def test_a_model_that_stays_slower_says_so():
    result = run(Timed(seconds=dict.fromkeys(SLOW, 3.0)))
    assert not result.fallbacks
    assert str(result).startswith("Goal met, but nothing gained: 4 of 4 operators int8, 0.33x")


class Chain(Machine):
    """Units that take integers from each other: one in fp32 costs its neighbours time too."""

    def __init__(self, alone, broken):
        super().__init__(dict.fromkeys(alone, 1.0), {name: 1 / speed for name, speed in alone.items()}, alone)
        self.speeds = {name: replace(speed, is_chained=True) for name, speed in self.speeds.items()}
        self.broken = broken

    def gain(self, fallen):
        return 1 / (1 / super().gain(fallen) + len(fallen) * self.broken / len(self.units))


@pytest.mark.parametrize(("broken", "expected"), [(0.0, ["a", "b"]), (0.3, ["a"]), (2.0, [])])
def test_a_chain_is_broken_only_where_the_whole_model_gets_faster(broken, expected):
    machine = Chain({"a": 0.5, "b": 0.9, "c": 3.0}, broken)
    reasons = losing_chains(machine.units, machine.speeds, machine.gain)
    assert list(reasons) == expected
    assert all("not faster here" in reason and "whole model" in reason for reason in reasons.values())


def test_a_chain_is_not_measured_where_all_of_it_is_faster():
    machine = Chain({"a": 1.5, "b": 2.0}, 0.0)
    assert losing_chains(machine.units, machine.speeds, machine.gain) == {}
    assert machine.asked == []


def test_one_unit_of_a_chain_stays():
    machine = Chain({"a": 0.5}, 0.0)
    assert losing_chains(machine.units, machine.speeds, machine.gain) == {}


def test_nothing_falls_back_where_the_timed_inputs_leave_units_out():
    """An expert that they do not reach: other inputs take another way, at another speed."""
    machine = Machine({"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 4.0, "b": 0.5, "c": 0.0}, {"a": 0.25, "b": 2.0, "c": 1.0})
    machine.speeds["c"] = replace(machine.speeds["c"], runs=False)
    assert machine.slowing() == {}
    assert machine.asked == []
