"""What evaluations return, in order, and what the search makes of it.

Most sequences are those on which Intel Neural Compressor 2.x tested its tuning. The first score is always that of the
fp32 model. Where the outcome here is another one, the docstring says why.
"""

from __future__ import annotations

import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError, EvaluationError
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, Scores, random_model
from inc_autotune.testing.numpy_framework import NumpyModel

WIDTH = 16
DATA = [np.random.default_rng(1).normal(size=(16, WIDTH)).astype(np.float32)]


class SeveralTypes(NumpyAdaptor):
    """Layers whose names tell their operator type, as a framework with convolutions has them."""

    def query_fw_capability(self, model):
        found = super().query_fw_capability(model)
        opwise = {(name, name.split("_")[0]): options for (name, _), options in found["opwise"].items()}
        return {**found, "opwise": opwise}


def layers_of(*types, each=2) -> NumpyModel:
    """`each` layers of every type, named by it."""
    plain = random_model(each * len(types), WIDTH)
    names = [f"{op_type}_{place}" for op_type in types for place in range(each)]
    return NumpyModel(tuple(replace(layer, name=name) for name, layer in zip(names, plain.layers, strict=True)))


def run(*scores, model=None, adaptor=None, **given):
    """The result; evaluations are counted."""
    evaluate = Scores(*scores)
    arguments = validate_arguments(strategies=STRATEGIES, backends=["default"], progress=False, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = tune(adaptor or NumpyAdaptor(), model or random_model(12, WIDTH), DATA, evaluate, arguments).result
    assert len(evaluate.models) == result.evaluations == 1 + len(result.trials)
    return result


def quantized(result):
    return {each.name for each in result.operators if each.approach is not None}


# Conservative


def test_conservative_keeps_convolutions_and_rejects_matrix_products():
    """1.0, 0.9, 1.1, 0.8. The last score is not asked for: both families quantized is the first model again."""
    model = layers_of("Conv2d", "MatMul")
    result = run(1.0, 0.9, 1.1, 0.8, model=model, adaptor=SeveralTypes(), strategy="conservative", tuning_time=1000)
    assert quantized(result) == {"Conv2d_0", "Conv2d_1"}
    assert (result.met, len(result.trials)) == (True, 2)


def test_conservative_adds_matrix_products_to_convolutions_where_both_hold():
    """1.0, 0.9, 1.1, 1.2, with a third family, without which the third model would be the first again."""
    model = layers_of("Conv2d", "MatMul", "LayerNorm")
    scores = (1.0, 0.9, 1.1, 1.2, 0.9)
    result = run(*scores, model=model, adaptor=SeveralTypes(), strategy="conservative", tuning_time=1000)
    assert quantized(result) == {"Conv2d_0", "Conv2d_1", "MatMul_0", "MatMul_1"}


def test_conservative_goes_on_to_matrix_products_where_convolutions_fail():
    """1.0, 0.9, 0.8, 1.1."""
    model = layers_of("Conv2d", "MatMul")
    result = run(1.0, 0.9, 0.8, 1.1, model=model, adaptor=SeveralTypes(), strategy="conservative")
    assert quantized(result) == {"MatMul_0", "MatMul_1"}
    assert result.met


# One search instead of stages


def test_five_failures_do_not_end_the_default_strategy():
    """1.0, 0.7, 0.8, 0.9, 0.95, 0.98, 1.1: three strategies after each other were needed, one is here."""
    result = run(1.0, 0.7, 0.8, 0.9, 0.95, 0.98, 1.1)
    assert (result.met, result.score) == (True, 1.1)
    assert [len(trial.assignment.fallback_units) for trial in result.trials] == [0, 1, 2, 4, 8, 10]


@pytest.mark.parametrize("name", ["auto", "mse_v2"])
def test_scores_that_only_fall_still_return_a_model(name):
    """9, 8, 7, ...: there was no model. Here the best one is returned, unmet."""
    result = run(*range(9, 0, -1), strategy=name)
    assert (result.met, result.score) == (False, 8)
    assert quantized(result) == {f"dense{place}" for place in range(12)}


# Time left


class Timed(NumpyAdaptor):
    """fp32 takes 2 seconds; candidates what they are told to, in the order of their evaluations."""

    def __init__(self, evaluated, seconds):
        super().__init__()
        self.evaluated, self.seconds = evaluated, seconds

    def measure(self, models):
        (place,) = [place for place, each in enumerate(self.evaluated) if each is models[1]]
        return [2.0, self.seconds[place - 1]]


def test_the_fastest_model_that_meets_the_goal_is_chosen_not_the_first_or_the_most_accurate():
    """Scores 2, 1, 2.1, 2.2, 2.3, 2.4, 2.1 and seconds 2, 0.01, 1, 0.5, 0.1, 1, 1: the fourth trial.

    The first trial was the fastest but failed, and the fifth was the most accurate.
    """
    evaluate = Scores(2, 1, 2.1, 2.2, 2.3, 2.4, 2.1)
    adaptor = Timed(evaluate.models, [0.01, 1, 0.5, 0.1, 1, 1])
    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=["default"],
        progress=False,
        smoothquant_args={"alpha": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
        tuning_time=1000,
        max_trials=6,
    )
    result = tune(adaptor, random_model(4, WIDTH), DATA, evaluate, arguments).result
    assert (result.chosen, result.score, result.gain) == (3, 2.3, 20.0)
    assert result.trials[0].gain is None, "a model that misses the goal is not worth measuring"


def test_several_objectives_at_once_are_an_error_that_lists_them():
    """They were weighed against each other by normalized values, which nobody can predict."""
    with pytest.raises(ArgumentError, match=r"(?s)objective.*performance.*modelsize.*footprint"):
        run(1.0, objective=["performance", "modelsize"])


# What a score may be


@pytest.mark.parametrize("scores", [{"accuracy": 0.9, "recall": 0.8}, [0.9, 0.8], "0.9"])
def test_several_metrics_are_one_score_or_an_error(scores):
    """They had directions and weights of their own. Here the user's function combines them."""
    with pytest.raises(EvaluationError, match="Return one finite number"):
        run(scores)


@pytest.mark.parametrize(("score", "met"), [(0.20, True), (0.205, True), (0.21, True), (0.2101, False), (0.1, True)])
def test_an_absolute_goal_of_a_score_that_is_better_when_lower(score, met):
    criterion = {"absolute": 0.01, "higher_is_better": False}
    assert run(0.2, score, accuracy_criterion=criterion, max_trials=1).met is met


# Quantized again


def test_mse_v2_falls_back_until_the_goal_is_met_and_quantizes_again_what_it_can():
    """1, 0, 0, 0, 0, 1, 1.1, 1.5, 1.1: four units fall back, then all but the last of them return."""
    result = run(1, 0, 0, 0, 0, 1, 1.1, 1.5, 1.1, strategy="mse_v2", tuning_time=1000)
    assert [len(trial.assignment.fallback_units) for trial in result.trials] == [0, 1, 2, 3, 4, 3, 2, 1]
    assert len(result.fallbacks) == 1
    fourth = set(result.trials[4].assignment.fallback_units) - set(result.trials[3].assignment.fallback_units)
    assert set(result.fallbacks) == fourth


def test_mse_v2_without_time_left_stops_at_the_first_success():
    result = run(1, 0, 0, 0, 0, 1, 1.1, strategy="mse_v2")
    assert (len(result.trials), len(result.fallbacks)) == (5, 4)


# Alphas


def test_one_alpha_is_one_trial():
    result = run(1.0, 1.0, smoothquant_args={"alpha": 0.5})
    assert len(result.trials) == 1
    assert set(result.alphas.values()) == {0.5}


def test_a_list_of_alphas_that_all_fail_is_not_the_end():
    """1, 0.8, 0.9: the best, 0.15, was returned. Here units fall back from it first, as without a list."""
    result = run(1.0, 0.8, 0.9, 0.95, 1.0, smoothquant_args={"alpha": [0.1, 0.15]})
    assert result.met
    assert len(result.fallbacks) == 2
    assert set(result.alphas.values()) == {0.15}


def test_an_alpha_of_a_list_makes_the_model_that_it_makes_alone():
    listed, alone = Scores(1.0, 0.5, 1.0), Scores(1.0, 1.0)
    for evaluate, alpha in ((listed, [0.4, 0.5]), (alone, 0.5)):
        arguments = validate_arguments(
            strategies=STRATEGIES, backends=["default"], progress=False, smoothquant_args={"alpha": alpha}
        )
        tune(NumpyAdaptor(), random_model(4, WIDTH), DATA, evaluate, arguments)
    for one, other in zip(listed.models[2].layers, alone.models[1].layers, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


# Memory


def test_candidates_that_are_not_the_best_are_not_kept():
    """However long the search, two are alive: the best so far and the one that is evaluated."""
    alive, most = weakref.WeakSet(), []
    scores = iter([1.0, 0.5, 0.7, 0.6, 0.65, 0.6, 0.6])

    class Candidate(NumpyModel):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    class Watched(NumpyAdaptor):
        def quantize(self, *args, **given):
            return Candidate(super().quantize(*args, **given).layers)

    def evaluate(model):
        if isinstance(model, Candidate):
            alive.add(model)
            most.append(len(alive))
        return next(scores)

    arguments = validate_arguments(strategies=STRATEGIES, backends=["default"], progress=False, max_trials=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tune(Watched(), random_model(12, WIDTH), DATA, evaluate, arguments)
    assert len(most) == 6
    assert max(most) == 2
