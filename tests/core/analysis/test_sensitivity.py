"""Ranking by harm and choosing fallbacks, on a framework whose harms the test chooses."""

import numpy as np
import pytest

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.sensitivity import (
    MEASURED_UNITS,
    UnitHarm,
    choose_fallback,
    estimate_harms,
    probe_halves,
    rank_units,
)
from inc_autotune.core.op_config import FP32, FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.core.space.units import TuningSpace, Unit

WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")
ACTIVATION = TensorConfig("uint8", "asym", "per_tensor", "minmax")
STATIC, DYNAMIC = OpConfig(WEIGHT, ACTIVATION, "static"), OpConfig(WEIGHT, ACTIVATION, "dynamic")
WEIGHT_ONLY = OpConfig(WEIGHT, FP32_TENSOR, "weight_only")


class Planted(Adaptor):
    """Each unit quantized adds its harm to the output error; counts the forward passes.

    `weight_parts` are the parts of the harms that come from weights, which dynamic quantization leaves.
    """

    def __init__(self, harms, estimates=None, weight_parts=None):
        self.harms, self.estimates, self.weight_parts = harms, estimates, weight_parts or {}
        self.runs = 0
        self.units = tuple(Unit(name, ((name, "Dense"),), (STATIC, DYNAMIC, FP32)) for name in harms)
        self.space = TuningSpace(self.units)
        self.start = self.space.default(1)

    def query_fw_capability(self, model):
        return {"opwise": {}, "optypewise": {}}

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        assert tune_cfg["without_held_out"]
        total = 0.0
        for (name, _), config in tune_cfg["op"].items():
            mode = config["activation"].get("quant_mode")
            part = self.weight_parts.get(name, 0.0) if mode == "dynamic" else 1.0
            total += 0.0 if mode is None else self.harms[name] * part
        return total

    def half_quantized(self, tune_cfg, model, half):
        by_weight = sum(
            self.harms[name] * self.weight_parts.get(name, 0.0)
            for (name, _), config in tune_cfg["op"].items()
            if "quant_mode" in config["activation"]
        )
        return by_weight if half == "weight" else self.quantize(tune_cfg, model, None) - by_weight

    def gradient_harms(self, units, tune_cfg, expired=lambda: False):
        assert tune_cfg["without_held_out"]
        return None if self.estimates is None else {unit.name: self.estimates[unit.name] for unit in units}

    def reference_outputs(self):
        return [np.ones(1)]

    def run(self, candidate):
        self.runs += 1
        return [np.ones(1) + np.sqrt(candidate)]

    def rank(self, **limits):
        return rank_units(self, None, self.space, self.start, **limits)


def planted_harms(bad, count=40, seed=0):
    """Small harms of all sizes, and large ones at random places."""
    generator = np.random.default_rng(seed)
    harms = 10.0 ** generator.uniform(-7, -5, count)
    places = generator.permutation(count)[:bad]
    harms[places] = 10.0 ** generator.uniform(-3, -1, bad)
    return {f"u{index}": float(harm) for index, harm in enumerate(harms)}, {f"u{place}" for place in places}


def distorted(harms, seed=1):
    """Estimates that are up to twice too large or too small."""
    factors = 2.0 ** np.random.default_rng(seed).uniform(-1, 1, len(harms))
    return {name: harm * float(factor) for (name, harm), factor in zip(harms.items(), factors, strict=True)}


def test_without_gradients_every_unit_is_measured():
    harms, _ = planted_harms(3)
    adaptor = Planted(harms)
    ranked = adaptor.rank()
    assert [harm.unit for harm in ranked] == sorted(harms, key=harms.__getitem__, reverse=True)
    assert [harm.error for harm in ranked] == pytest.approx(sorted(harms.values(), reverse=True))
    assert adaptor.runs == len(harms)


def test_few_units_are_measured_even_with_gradients():
    harms, _ = planted_harms(2, count=2 * MEASURED_UNITS)
    adaptor = Planted(harms, distorted(harms))
    assert not any(harm.estimated for harm in adaptor.rank())
    assert adaptor.runs == len(harms)


@pytest.mark.parametrize("bad", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_planted_units_come_first_for_few_forward_passes(bad, seed):
    harms, places = planted_harms(bad, seed=seed)
    adaptor = Planted(harms, distorted(harms, seed))
    ranked = adaptor.rank()
    assert {harm.unit for harm in ranked[:bad]} == places
    assert adaptor.runs == MEASURED_UNITS + 1
    assert sum(not harm.estimated for harm in ranked) == MEASURED_UNITS
    exact = [harm for harm in ranked if not harm.estimated]
    assert [harm.error for harm in exact] == pytest.approx([harms[harm.unit] for harm in exact])


@pytest.mark.parametrize("bad", [1, 3, 10])
def test_harm_that_gradients_do_not_see_is_found(bad):
    """Behind a rounding or a dead ReLU gradients are zero."""
    harms, places = planted_harms(bad)
    estimates = {name: 0.0 if name in places else harm for name, harm in harms.items()}
    ranked = Planted(harms, estimates).rank()
    assert {harm.unit for harm in ranked[:bad]} == places


def test_measuring_goes_on_only_as_long_as_estimates_are_wrong():
    harms, _ = planted_harms(0, count=60)
    order = sorted(harms, key=harms.__getitem__, reverse=True)
    # The most harmful by estimate, and one that is far worse than it seems, in the second eight.
    harms[order[12]] *= 1e4
    estimates = {**harms, order[12]: harms[order[12]] / 1e4}
    adaptor = Planted(harms, estimates)
    assert adaptor.rank()[0].unit == order[12]
    assert adaptor.runs == 2 * (MEASURED_UNITS + 1)


def test_without_time_estimates_stand_and_units_without_one_come_last():
    harms, _ = planted_harms(3)
    calls = iter(range(1000))
    ranked = Planted(harms, distorted(harms)).rank(expired=lambda: next(calls) > 3)
    assert sum(not harm.estimated for harm in ranked) == 3
    assert all(harm.error is not None for harm in ranked)
    calls = iter(range(1000))
    unknown = Planted(harms).rank(expired=lambda: next(calls) > 5)
    assert [harm.error is None for harm in unknown] == [False] * 5 + [True] * 35
    assert [harm.unit for harm in unknown[5:]] == list(harms)[5:]


def test_estimates_alone_rank_too():
    harms, _ = planted_harms(3)
    adaptor = Planted(harms, harms)
    ranked = estimate_harms(adaptor, adaptor.space, adaptor.start)
    assert [harm.unit for harm in ranked] == sorted(harms, key=harms.__getitem__, reverse=True)
    assert all(harm.estimated for harm in ranked)
    assert adaptor.runs == 0
    assert estimate_harms(Planted(harms), adaptor.space, adaptor.start) is None


@pytest.mark.parametrize(("weight_part", "expected"), [(0.01, DYNAMIC), (0.05, DYNAMIC), (0.5, FP32), (0.97, FP32)])
def test_dynamic_is_tried_only_where_the_activation_hurts(weight_part, expected):
    adaptor = Planted({"a": 0.01, "b": 1e-6}, weight_parts={"a": weight_part})
    worst = probe_halves(adaptor, None, adaptor.space, adaptor.start, adaptor.rank()[0])
    assert worst.weight_error == pytest.approx(0.01 * weight_part)
    assert worst.activation_error == pytest.approx(0.01 * (1 - weight_part))
    assert worst.activation_share == pytest.approx(1 - weight_part)
    before = adaptor.runs
    assert choose_fallback(adaptor, None, adaptor.space, adaptor.start, worst) == expected
    assert adaptor.runs - before == (1 if expected == DYNAMIC else 0)


def test_a_unit_of_unknown_harm_goes_to_fp32_without_a_forward_pass():
    adaptor = Planted({"a": 0.01})
    assert choose_fallback(adaptor, None, adaptor.space, adaptor.start, UnitHarm("a", None)) == FP32
    assert adaptor.runs == 0


def test_halves_are_not_probed_where_there_is_one_or_none_can_be_made():
    harm = UnitHarm("a", 0.01)
    adaptor = Planted({"a": 0.01})
    one_half = adaptor.start.replace({"a": WEIGHT_ONLY})
    assert probe_halves(adaptor, None, adaptor.space, one_half, harm) == harm
    adaptor.half_quantized = lambda tune_cfg, model, half: None
    assert probe_halves(adaptor, None, adaptor.space, adaptor.start, harm) == harm
    assert harm.activation_share is None
    assert adaptor.runs == 0


class Failing(Planted):
    """Candidates with a unit of infinite harm do not run."""

    def run(self, candidate):
        if not np.isfinite(candidate):
            raise RuntimeError("could not create a primitive descriptor")
        return super().run(candidate)


@pytest.mark.parametrize("make", [Planted, Failing])
def test_a_unit_of_infinite_harm_comes_first_and_falls_back_to_what_helps(make):
    adaptor = make({"a": 1e-3, "b": np.inf, "c": 1e-2})
    ranked = adaptor.rank()
    assert [harm.unit for harm in ranked] == ["b", "c", "a"]
    assert ranked[0].error == np.inf
    assert probe_halves(adaptor, None, adaptor.space, adaptor.start, ranked[0]) == ranked[0]

    def fallback(left):
        return choose_fallback(adaptor, None, adaptor.space, adaptor.start, ranked[0], error_of=lambda _: left)

    assert [fallback(left) for left in (np.inf, 0.5, 0.05)] == [FP32, FP32, DYNAMIC]


@pytest.mark.parametrize(("left", "dtype"), [([0.0], "int4"), ([0.5, 0.0], "int8"), ([0.5, 0.5], "fp32")])
def test_a_harmful_unit_of_few_bits_falls_back_to_wider_weights(left, dtype):
    small, wider, widest = (
        OpConfig(TensorConfig(name, "sym", "per_channel", "minmax"), FP32_TENSOR, "weight_only")
        for name in ("int3", "int4", "int8")
    )
    adaptor = Planted({"a": 0.01})
    space = TuningSpace((Unit("a", (("a", "Dense"),), (small, wider, widest, FP32)),))
    start = space.default(1).replace({"a": small.with_alpha(0.5)})
    errors = iter(error * 0.01 for error in left)
    found = choose_fallback(adaptor, None, space, start, UnitHarm("a", 0.01), error_of=lambda _: next(errors))
    assert found.dtype == dtype
    assert found.alpha == (None if dtype == "fp32" else 0.5)
