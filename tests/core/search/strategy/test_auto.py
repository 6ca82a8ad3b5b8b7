"""The default strategy: how many evaluations, how many fallbacks, alone and in several processes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.analysis.sensitivity import UnitHarm
from inc_autotune.core.analysis.smoothing_plan import OFF
from inc_autotune.core.arguments.autotune import AccuracyCriterion
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.search.strategy import SearchView
from inc_autotune.core.search.strategy.auto import auto
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space.units import TuningSpace, Unit

INT8 = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
UNITS = 40


class Tuning:
    """The tuner's loop without models; several workers evaluate at once and finish in turn."""

    def __init__(self, bad, order=None, *, score=None, thorough=False, workers=1, units=UNITS, harm=None):
        names = [f"u{index}" for index in range(units)]
        space = TuningSpace(tuple(Unit(name, ((name, "Linear"),), (INT8, FP32)) for name in names))
        order = list(order) if order is not None else [*bad, *(name for name in names if name not in bad)]
        self.bad, self.score = set(bad), score or self.planted_score
        self.trials, self.workers = [], workers
        self.view = SearchView(
            space=space,
            trials=(),
            goal=Goal(1.0, AccuracyCriterion(relative=0.01)),
            plans=(OFF,),
            sampling_sizes=(100,),
            rank=lambda assignment: [UnitHarm(name, None if harm is None else harm(name)) for name in order],
            thorough=thorough,
            workers=workers,
        )

    def planted_score(self, fallen):
        """Each bad unit costs 5 % when it is quantized, the others next to nothing."""
        return 1.0 - 0.05 * len(self.bad - set(fallen)) - 1e-5 * (UNITS - len(fallen))

    def run(self):
        """Rounds until every worker is done: each holds one running trial; the oldest ends first."""
        self.rounds = 0
        while True:
            while sum(trial.state == "running" for trial in self.trials) < self.workers and not self.is_over:
                proposal = auto(replace(self.view, trials=tuple(self.trials)))
                if proposal is None:
                    break
                digests = {trial.assignment.digest for trial in self.trials}
                assert proposal.assignment.digest not in digests
                assert any(config.is_quantized for _, config in proposal.assignment.configs)
                self.trials.append(Trial(len(self.trials), proposal.assignment, proposal.label, "running"))
            running = [trial for trial in self.trials if trial.state == "running"]
            if not running:
                return self
            self.rounds += 1
            for trial in running:
                score = self.score(trial.assignment.fallback_units)
                ended = replace(trial, state="complete", score=score, met=self.view.goal.met(score))
                self.trials[trial.number] = ended

    @property
    def is_over(self):
        return not self.view.thorough and any(trial.met for trial in self.trials)

    @property
    def evaluations(self):
        return 1 + len(self.trials)

    @property
    def fallbacks(self):
        return min((trial.assignment.fallback_units for trial in self.trials if trial.met), key=len)


def bad_units(count, seed=0):
    return [f"u{index}" for index in np.random.default_rng(seed).permutation(UNITS)[:count]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_planted_units_are_found_in_few_evaluations_with_few_fallbacks(count, seed):
    tuning = Tuning(bad_units(count, seed)).run()
    assert tuning.evaluations <= 4 + math.ceil(math.log2(UNITS))
    assert len(tuning.fallbacks) <= 2 * count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_ranking_that_mixes_in_harmless_units_keeps_both_bounds(count, seed):
    """Half as many harmless units again stand before the last bad one."""
    generator = np.random.default_rng(seed)
    bad = bad_units(count, seed)
    harmless = [f"u{index}" for index in range(UNITS) if f"u{index}" not in bad]
    front = list(generator.permutation([*bad, *harmless[: count // 2]]))
    order = [*front, *(name for name in harmless if name not in front)]
    tuning = Tuning(bad, order).run()
    assert tuning.evaluations <= 4 + math.ceil(math.log2(UNITS))
    assert len(tuning.fallbacks) <= 2 * count


@pytest.mark.parametrize("count", [1, 3, 10])
def test_time_left_finds_exactly_the_planted_units(count):
    """Harmless units in front of the bad ones fall back first, and are quantized again."""
    bad = bad_units(count)
    harmless = [f"u{index}" for index in range(UNITS) if f"u{index}" not in bad]
    tuning = Tuning(bad, [harmless[0], *bad, *harmless[1:]], thorough=True).run()
    assert sorted(tuning.fallbacks) == sorted(bad)
    assert tuning.evaluations <= 4 + math.ceil(math.log2(UNITS)) + 2 * count + 2


def test_scores_that_are_not_monotone_end_at_the_smaller_number():
    """Errors of two units cancel: 3 and 5 fallbacks meet the goal, 4 do not."""
    tuning = Tuning([], score=lambda fallen: 1.0 if len(fallen) in (3, 5, 6, 7, 8, 9) else 0.5, thorough=True).run()
    assert len(tuning.fallbacks) == 3


@pytest.mark.parametrize("position", [0, 5, UNITS - 2])
def test_a_bad_unit_that_seemed_the_most_harmless_is_found(position):
    names = [f"u{index}" for index in range(UNITS)]
    bad = [names[-1], names[position]]
    tuning = Tuning(bad, names).run()
    assert set(bad) <= set(tuning.fallbacks)
    assert tuning.evaluations <= 4 * math.ceil(math.log2(UNITS))


def test_a_faster_fallback_that_is_not_exact_enough_gives_way_to_fp32():
    dynamic = replace(INT8, approach="dynamic")
    tuning = Tuning([])
    tuning.view = replace(tuning.view, fallback=lambda assignment, unit: dynamic)
    tuning.score = lambda fallen: 1.0 if len(fallen) == UNITS - 1 else 0.5
    assert len(tuning.run().fallbacks) == UNITS - 1
    assert tuning.evaluations == 2 + len([1, 2, 4, 8, 16, 28, 34, 37, 38, 39]) + 1


def test_a_goal_that_nothing_meets_ends_the_search():
    tuning = Tuning([], score=lambda fallen: 0.5).run()
    assert tuning.evaluations <= 4 * math.ceil(math.log2(UNITS))
    tuning = Tuning([], score=lambda fallen: 0.5, units=2).run()
    assert len(tuning.trials) == 3


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("count", [1, 3, 10, 23])
def test_several_workers_need_fewer_rounds_and_find_the_same(workers, thorough, count):
    alone = Tuning(bad_units(count), thorough=thorough).run()
    together = Tuning(bad_units(count), thorough=thorough, workers=workers).run()
    if thorough:
        assert set(together.fallbacks) == set(alone.fallbacks)
    assert len(together.fallbacks) <= 2 * count
    assert together.rounds <= alone.rounds
    if count > 1:
        assert together.rounds < alone.rounds


def test_bisection_becomes_k_section():
    """After 16 failed and 32 met, one worker asks for 24, three for the ends of four equal parts."""
    bad = bad_units(23)
    for workers, expected in ((1, [24]), (3, [20, 24, 28])):
        tuning = Tuning(bad, thorough=True, workers=workers, units=64)
        for count in (0, 1, 2, 4, 8, 16, 32):
            assignment = tuning.view.space.without(tuning.view.space.default(100), bad_order(tuning, bad)[:count])
            tuning.trials.append(Trial(len(tuning.trials), assignment, "", "complete", 0.0, met=count == 32))
        asked = []
        for _ in range(workers):
            proposal = auto(replace(tuning.view, trials=tuple(tuning.trials)))
            asked.append(len(proposal.assignment.fallback_units))
            tuning.trials.append(Trial(len(tuning.trials), proposal.assignment, "", "running"))
        assert asked == expected


def bad_order(tuning, bad):
    return [*bad, *(unit.name for unit in tuning.view.space.units if unit.name not in bad)]


@pytest.mark.parametrize("needed", [17, 31, 33, 38, 45])
def test_no_success_gives_up_most_of_what_the_failure_before_it_kept(needed):
    """33 of 47 was found on a recogniser of text: 32 fell short by a hair, and doubling went on to 46."""
    tuning = Tuning([], score=lambda fallen: 1.0 if len(fallen) >= needed else 0.98979, units=47).run()
    failed = max(len(trial.assignment.fallback_units) for trial in tuning.trials if not trial.met)
    kept = 47 - len(tuning.fallbacks)
    assert len(tuning.fallbacks) >= needed
    assert 2 * kept >= 47 - failed - 1
    assert kept >= (47 - needed) // 2
    assert tuning.evaluations <= 2 + 2 * math.ceil(math.log2(47))


@pytest.mark.parametrize("units", [2, 3, 5, 8, 47, 200])
def test_all_units_but_one_are_the_last_resort(units):
    tried = [len(each.assignment.fallback_units) for each in Tuning([], score=lambda _: 0.5, units=units).run().trials]
    assert units - 1 in tried
    assert units not in tried


def tried(tuning):
    return [len(trial.assignment.fallback_units) for trial in tuning.run().trials]


def test_the_first_numbers_of_fallbacks_are_left_out_where_they_leave_too_much_harm():
    harm = {f"u{index}": 1.0 if index < 16 else 1e-3 for index in range(UNITS)}
    # Twice the tolerance of 0.01 is left with 10 fallbacks, but no more than an eighth of 40 units falls back at once.
    tuning = Tuning(list(harm)[:16], score=lambda fallen: 1 - 0.003 * (16 - len(fallen)), harm=harm.get)
    assert tried(tuning) == [0, 4, 8, 16]
    # One unit has most of the harm: nothing is left out.
    harm = {f"u{index}": 1.0 if index < 1 else 1e-3 for index in range(UNITS)}
    assert tried(Tuning(["u0"], harm=harm.get)) == [0, 1]


def test_few_units_fall_back_one_by_one_whatever_their_harm():
    assert tried(Tuning(["u0", "u1"], units=8, harm=lambda name: 1.0)) == [0, 1, 2]


@pytest.mark.parametrize("harm", [lambda name: None if name == "u3" else 1.0, lambda name: math.inf, lambda name: 0.0])
def test_without_a_harm_of_each_unit_no_number_is_left_out(harm):
    assert tried(Tuning(["u0", "u1"], harm=harm)) == [0, 1, 2]
