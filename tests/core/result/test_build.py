import dataclasses
import itertools
import warnings

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import AccuracyCriterion, validate_arguments
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.result.build import choose_best, warn_of_shortcomings
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space.units import Assignment
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

GOAL = Goal(1.0, AccuracyCriterion(relative=0.1))
INT8 = OpConfig(TensorConfig("int8"), TensorConfig("uint8"), "static")


def trial(number, score, gain=None, fallbacks=0, **given):
    configs = tuple((f"unit{index}", FP32 if index < fallbacks else INT8) for index in range(4))
    given = {"state": "complete", "met": score is not None and GOAL.met(score), **given}
    return Trial(number, Assignment(configs, 100), f"trial {number}", score=score, gain=gain, **given)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (trial(0, 0.91, 3.0), trial(1, 0.99, 2.0), "faster"),
        (trial(1, 0.99, 2.0), trial(0, 0.91, 2.02), "better score, as fast within what a repeat would show"),
        (trial(1, 0.95, 2.0, fallbacks=1), trial(0, 0.99, 2.01, fallbacks=2), "fewer fallbacks, as fast"),
        (trial(1, 0.92, 1.0), trial(0, 0.89, 9.0), "meets the goal"),
        (trial(1, 0.89, fallbacks=3), trial(0, 0.5), "neither meets the goal: better score"),
        (trial(1, 0.95, fallbacks=1), trial(0, 0.99, fallbacks=2), "fewer fallbacks, nothing measured"),
        (trial(0, 0.95), trial(1, 0.95), "the earlier of two equal ones"),
    ],
)
def test_of_two_trials(first, second, why):
    assert choose_best(GOAL, (first, second)) is first, why
    assert choose_best(GOAL, (second, first)) is first, why


def test_the_choice_does_not_depend_on_the_order_where_every_neighbour_is_a_tie():
    trials = [trial(0, 0.99, 2.00), trial(1, 0.97, 2.05), trial(2, 0.95, 2.10), trial(3, 0.93, 2.15)]
    chosen = {choose_best(GOAL, order).number for order in itertools.permutations(trials)}
    assert chosen == {2}, "the best score among those within 3 % of the fastest"


def test_trials_that_have_not_ended_well_are_no_candidates():
    failed = trial(0, None, state="failed", error="no memory")
    running = trial(1, None, state="running")
    assert choose_best(GOAL, (failed, running)) is None
    assert choose_best(GOAL, (failed, trial(2, 0.5), running)).number == 2


def run(objective="performance", adaptor=None, scores=(1.0, 1.0), **given):
    returned = itertools.chain(scores, itertools.repeat(scores[-1]))
    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    arguments = validate_arguments(
        strategies=["auto"], backends=["default"], progress=False, objective=objective, **given
    )
    return tune(adaptor or NumpyAdaptor(), random_model(), data, lambda model: next(returned), arguments).result


def test_the_summary_says_how_much_less_memory_is_used():
    result = run("footprint")
    assert result.objective == "footprint"
    assert result.gain > 1
    assert f"peak memory of a forward pass, weights included: {result.gain:.2f}x smaller" in str(result)


def test_more_memory_is_not_called_less():
    class Hungry(NumpyAdaptor):
        def footprint(self, models):
            return [100, 200]

    assert "weights included: 2.00x larger" in str(run("footprint", Hungry()))


def test_the_gain_in_size_is_that_of_the_weights():
    result = run("modelsize")
    assert result.gain == result.size_ratio == 4.0
    assert "peak memory" not in str(result)


class GetsFaster(NumpyAdaptor):
    """Every measured candidate is twice as fast as the one before; the first is measured before any trial, too."""

    def __init__(self):
        super().__init__()
        self.measured = 0

    def measure(self, models):
        self.measured += 1
        return [2.0**self.measured, 1.0]


def test_with_time_left_the_fastest_model_is_returned_and_not_measured_again():
    adaptor = GetsFaster()
    result = run(adaptor=adaptor, tuning_time=60, smoothquant_args={"alpha": [0.2, 0.5]})
    assert [trial.gain for trial in result.trials] == [4.0, 8.0]
    assert (result.chosen, result.gain, result.speedup) == (1, 8.0, 8.0)
    assert adaptor.measured == 3
    (rows,) = [text.split("\n") for text in str(result).split("\n\n") if text.startswith("trial")]
    assert ["gain" in rows[0], "4.00x" in rows[2], "8.00x" in rows[3]] == [True] * 3


def test_an_evaluation_that_was_stopped_early_is_shown():
    def scores(loss):
        for index in range(600):
            yield float(index % 3 > 0) - loss

    losses = itertools.chain([0.0], itertools.repeat(1.0))  # the fp32 model comes first
    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, max_trials=1)
    result = tune(NumpyAdaptor(), random_model(), data, lambda model: scores(next(losses)), arguments).result
    (only,) = result.trials
    assert only.stopped_early
    assert only.samples < 600
    assert "stopped early" in result.evidence
    assert f"(stopped after {only.samples} samples)" in str(result)


def plain(**changes):
    result = TuningResult(True, 1.0, 1.0, "", (), 2, (), speedup=2.0, size_ratio=None, smoothing=(), sampling_size=1)
    return dataclasses.replace(result, **changes)


def test_a_model_that_is_not_faster_is_a_warning_that_says_what_to_do():
    with pytest.warns(UserWarning, match=r"not faster than fp32 .* \(0\.87x; session run\)\. .*example_inputs.*fp32"):
        warn_of_shortcomings(plain(speedup=0.87, timed="session run"), stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shortcomings(plain(speedup=1.0), stacklevel=1)
        warn_of_shortcomings(plain(speedup=None), stacklevel=1)


class Timed(NumpyAdaptor):
    """The model takes what the test says, in units of the fp32 model's time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def measure(self, models):
        return [1.0, self.seconds][: len(models)]


@pytest.mark.parametrize(
    ("seconds", "gained", "headline"),
    [
        (0.5, True, "Goal met: score 1 against fp32 1, goal >= 0.99 (relative 0.01 of 1)"),
        (0.99, False, "Goal met, but nothing gained: 4 of 4 operators int8, 1.01x; score 1 against fp32 1, goal"),
        (1.25, False, "Goal met, but nothing gained: 4 of 4 operators int8, 0.80x; score 1 against fp32 1, goal"),
    ],
)
def test_a_success_that_gains_nothing_is_not_called_a_plain_one(seconds, gained, headline):
    result = run(adaptor=Timed(seconds))
    assert result.gained is gained
    assert str(result).startswith(headline)


def test_a_failure_that_gains_nothing_says_both():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(adaptor=Timed(2.0), scores=(1.0, 0.5))
    assert str(result).startswith("GOAL NOT MET, this is the best model found, and nothing gained: ")


def test_nothing_gained_is_said_without_an_evaluation_too():
    result = dataclasses.replace(run(adaptor=Timed(2.0)), met=None)
    headline = str(result).splitlines()[0]
    assert headline.endswith("no claim about accuracy; nothing gained: 4 of 4 operators int8, 0.50x")


def test_what_is_not_measured_is_neither_gained_nor_lost():
    result = run()
    assert result.gained is None
    assert str(result).startswith("Goal met: ")


def test_a_smaller_model_gains_under_its_own_objective_however_slow_it_is():
    assert run("modelsize", Timed(2.0)).gained is True
    assert str(run("modelsize", Timed(2.0))).startswith("Goal met: ")
