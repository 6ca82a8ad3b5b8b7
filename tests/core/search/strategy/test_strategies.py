"""Every strategy as a function of the history, then inside the loop with counted evaluations."""

import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import optuna
import pytest

from inc_autotune.core.analysis.sensitivity import UnitHarm
from inc_autotune.core.analysis.smoothing_plan import OFF, SmoothingPlan
from inc_autotune.core.arguments.autotune import AccuracyCriterion, validate_arguments
from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.search.strategy import STRATEGIES, SearchView, check_strategy
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space.units import TuningSpace, Unit
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

INT8 = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
needs_gaussian_process = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("scipy", "torch")), reason="Optuna's GPSampler needs scipy and torch"
)
SAMPLED = [pytest.param("bayesian", marks=needs_gaussian_process), "tpe", "random", "exhaustive"]
# Only the strategies of this file: others may need what the numpy framework does not offer.
DIRECTED = ["basic", "mse", "mse_v2"]
ALL = ["auto", "conservative", *DIRECTED, *SAMPLED]


def space_of(count=12, types=("Linear",)):
    units = [(f"u{index}", types[index * len(types) // count]) for index in range(count)]
    return TuningSpace(tuple(Unit(name, ((name, op_type),), (INT8, FP32)) for name, op_type in units))


class Search:
    """The tuner's loop without models: a score is a function of the assignment.

    Every step checks what each strategy promises: the same view gives the same proposal, nothing is tried twice, and
    the fp32 model is never a candidate.
    """

    def __init__(self, name, space, score, *, rank=None, plans=(OFF,), sizes=(100,), thorough=False, seed=0):
        order = rank or [unit.name for unit in space.units]
        self.strategy, self.score, self.trials = STRATEGIES[name], score, []
        self.view = SearchView(
            space=space,
            trials=(),
            goal=Goal(1.0, AccuracyCriterion(relative=0.01)),
            plans=plans,
            sampling_sizes=sizes,
            rank=lambda assignment: [UnitHarm(unit, None) for unit in order if assignment.by_unit[unit].is_quantized],
            thorough=thorough,
            seed=seed,
        )

    def next(self, trials=None):
        return self.strategy(replace(self.view, trials=tuple(self.trials if trials is None else trials)))

    def run(self, max_trials=100, stop_at_first=True):
        while len(self.trials) < max_trials:
            if stop_at_first and any(trial.met for trial in self.trials):
                return self
            proposal = self.next()
            if proposal is None:
                return self
            if len(self.trials) % 5 == 0:
                assert proposal == self.next()
            assert proposal.assignment.digest not in {trial.assignment.digest for trial in self.trials}
            assert any(config.is_quantized for _, config in proposal.assignment.configs)
            score = self.score(proposal.assignment)
            self.trials.append(
                Trial(
                    number=len(self.trials),
                    assignment=proposal.assignment,
                    label=proposal.label,
                    state="failed" if score is None else "complete",
                    score=score,
                    met=score is not None and self.view.goal.met(score),
                )
            )
        return self

    @property
    def best(self):
        return min((trial for trial in self.trials if trial.met), key=lambda trial: len(fallbacks(trial)))


def fallbacks(trial):
    return trial.assignment.fallback_units


def scripted(*scores):
    rest = list(scores)
    return lambda assignment: rest.pop(0) if len(rest) > 1 else rest[0]


def planted(*bad):
    """Each of these units costs 5 % when it is quantized, the others next to nothing."""

    def score(assignment):
        quantized = {unit for unit, config in assignment.configs if config.is_quantized}
        return 1.0 - 0.05 * len(quantized & set(bad)) - 1e-5 * len(quantized)

    return score


def ranked_first(space, *first):
    return [*first, *(unit.name for unit in space.units if unit.name not in first)]


@pytest.mark.parametrize("name", ALL)
def test_all_quantized_comes_first_and_a_success_ends_the_search(name):
    search = Search(name, space_of(), scripted(1.0)).run(stop_at_first=False)
    (trial,) = search.trials
    assert not fallbacks(trial)


@pytest.mark.parametrize("name", ALL)
def test_required_smoothing_plans_and_sampling_sizes_come_first(name):
    alphas = [{f"u{index}": alpha for index in range(6)} for alpha in (0.1, 0.15)]
    plans = [SmoothingPlan("alpha 0.1", alphas[0]), SmoothingPlan("alpha 0.15", alphas[1])]
    plans.append(SmoothingPlan("off", {}, required=False))
    search = Search(name, space_of(6, ("Conv2d", "Linear")), scripted(0.0), plans=plans, sizes=(50, 100)).run(6)
    starts = [trial.assignment for trial in search.trials[:4]]
    assert [each.sampling_size for each in starts] == [50, 50, 100, 100]
    assert [each.by_unit["u0"].alpha for each in starts] == [0.1, 0.15, 0.1, 0.15]
    assert all(not each.fallback_units for each in starts)
    assert len(search.trials) == 6


@pytest.mark.parametrize("name", [*DIRECTED, "conservative"])
def test_fallbacks_start_from_the_best_plan(name):
    plans = [SmoothingPlan(f"alpha {alpha}", {f"u{index}": alpha for index in range(6)}) for alpha in (0.1, 0.2, 0.3)]
    search = Search(name, space_of(6, ("Conv2d", "Linear")), scripted(0.5, 0.7, 0.6, 0.0), plans=plans).run(4)
    alphas = {config.alpha for _, config in search.trials[3].assignment.configs}
    assert alphas == {0.2, None}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_goal_that_is_never_met_ends_the_search(name, count):
    search = Search(name, space_of(count, ("Conv2d", "Linear")[:count]), scripted(0.9, 0.5, 0.6)).run(100)
    assert 1 <= len(search.trials) <= 2**count - 1
    assert not any(trial.met for trial in search.trials)


@pytest.mark.parametrize("name", ALL)
def test_candidates_that_cannot_be_built_end_the_search_too(name):
    search = Search(name, space_of(3, ("Conv2d", "Linear")), scripted(None)).run(100)
    assert 1 <= len(search.trials) <= 7


@pytest.mark.parametrize("name", ALL)
def test_a_cut_off_history_goes_on_as_before(name):
    space = space_of(8, ("Conv2d", "Linear"))
    search = Search(name, space, planted("u1", "u5"), rank=ranked_first(space, "u1", "u5"), thorough=True)
    search.run(12, stop_at_first=False)
    for cut, trial in enumerate(search.trials):
        assert search.next(search.trials[:cut]).assignment == trial.assignment
        interrupted = replace(trial, state="failed", score=None, met=False, interrupted=True)
        assert search.next([*search.trials[:cut], interrupted]).assignment == trial.assignment


@pytest.mark.parametrize("name", ["mse", "mse_v2"])
@pytest.mark.parametrize("bad", [("u7",), ("u2", "u7", "u11")])
def test_planted_units_are_found_one_by_one(name, bad):
    space = space_of()
    search = Search(name, space, planted(*bad), rank=ranked_first(space, *bad)).run()
    assert fallbacks(search.best) == tuple(sorted(bad, key=lambda unit: int(unit[1:])))
    assert len(search.trials) == 1 + len(bad)


@pytest.mark.parametrize("bad", [("u7",), ("u2", "u7", "u11")])
def test_basic_tries_families_before_single_units(bad):
    space = space_of(12, ("Conv2d", "Linear", "LayerNorm"))
    search = Search("basic", space, planted(*bad), rank=ranked_first(space, *bad))
    search.run()
    if len(bad) == 1:
        assert [len(fallbacks(trial)) for trial in search.trials] == [0, 4, 4]  # u7 is among the Linears
        search.view = replace(search.view, thorough=True)
        search.run(stop_at_first=False)
        assert fallbacks(search.best) == bad
    else:
        assert fallbacks(search.best) == bad
        assert len(search.trials) == 1 + 3 + 3


def test_basic_with_one_family_wastes_nothing_on_it():
    space = space_of()
    search = Search("basic", space, planted("u7"), rank=ranked_first(space, "u7")).run()
    assert len(search.trials) == 2
    assert fallbacks(search.best) == ("u7",)


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("bad", [("u7",), ("u2", "u7", "u11")])
def test_samplers_meet_the_goal_with_planted_units(name, bad):
    search = Search(name, space_of(), planted(*bad)).run(max_trials=100)
    assert set(bad) <= set(fallbacks(search.best))


def test_with_time_left_tpe_looks_for_fewer_fallbacks():
    search = Search("tpe", space_of(), planted("u7"), thorough=True).run(max_trials=25, stop_at_first=False)
    first = next(trial for trial in search.trials if trial.met)
    assert len(fallbacks(search.best)) < len(fallbacks(first))
    assert len(fallbacks(search.best)) <= 3


@pytest.mark.parametrize("name", SAMPLED)
def test_samplers_try_every_combination_once(name):
    """Two plans that smooth one of three units: those that leave it in fp32 are the same model."""
    plans = [SmoothingPlan("alpha 0.5", {"u0": 0.5}), SmoothingPlan("off", {}, required=False)]
    search = Search(name, space_of(3), scripted(0.5, 0.6, 0.4, 0.7), plans=plans).run(100)
    assert len(search.trials) == 2 * 4 + 3


@pytest.mark.parametrize("name", SAMPLED)
def test_samplers_never_build_the_product(name):
    space = space_of(60)
    search = Search(name, space, scripted(0.5, 0.6, 0.55)).run(12)
    assert len(search.trials) == 12


def test_another_seed_draws_other_models():
    searches = [Search("random", space_of(), scripted(0.5), seed=seed).run(5) for seed in (0, 0, 1)]
    drawn = [[trial.assignment.digest for trial in search.trials] for search in searches]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] == drawn[2][0]


def test_the_gaussian_process_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(
        "inc_autotune.core.search.strategy.sampled.find_spec", lambda package: None if package == "scipy" else object()
    )
    with pytest.raises(MissingDependencyError, match=r"strategy='bayesian': scipy not installed.*pip install scipy\."):
        check_strategy("bayesian", NumpyAdaptor())


def test_samplers_say_nothing_and_leave_optunas_logging_as_it_was(capfd):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Search("exhaustive", space_of(3), scripted(0.5)).run()
        Search("tpe", space_of(5), scripted(0.5)).run()
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_the_strategies_load_no_framework():
    code = "import sys, inc_autotune.core.search.strategy; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# conservative: what the old system's own tests expected of it, all quantized first


@pytest.mark.parametrize(
    ("scores", "quantized", "trials"),
    [
        ((1.2,), {"conv0", "conv1", "fc0", "fc1"}, 1),
        ((0.9, 1.1, 0.8), {"conv0", "conv1"}, 2),  # with linear too it would be the first model again
        ((0.9, 0.8, 1.1), {"fc0", "fc1"}, 3),
    ],
)
def test_conservative_keeps_the_families_that_hold(scores, quantized, trials):
    units = [("conv0", "Conv2d"), ("conv1", "Conv2d"), ("fc0", "MatMul"), ("fc1", "Gemm")]
    space = TuningSpace(tuple(Unit(name, ((name, op_type),), (INT8, FP32)) for name, op_type in units))
    search = Search("conservative", space, scripted(*scores)).run(stop_at_first=False)
    best = search.best.assignment
    assert {unit for unit, config in best.configs if config.is_quantized} == quantized
    assert len(search.trials) == trials


def test_conservative_adds_a_family_to_those_kept():
    space = space_of(12, ("Conv2d", "Linear", "LayerNorm"))
    search = Search("conservative", space, planted("u9")).run(stop_at_first=False)
    assert [len(fallbacks(trial)) for trial in search.trials] == [0, 8, 4]
    assert fallbacks(search.best) == ("u8", "u9", "u10", "u11")


def test_conservative_costs_no_more_than_the_families_and_one():
    space = space_of(60, ("Conv2d", "Linear", "LayerNorm"))
    search = Search("conservative", space, scripted(0.5)).run(stop_at_first=False)
    assert len(search.trials) == 4


# mse_v2


def test_mse_v2_quantizes_again_what_fell_back_for_nothing():
    space = space_of()
    search = Search("mse_v2", space, planted("u3", "u9"), rank=ranked_first(space, "u3", "u0", "u1", "u9"))
    search.run(stop_at_first=False)
    # 0..4 fallbacks, then u1 and u0 return; u3 breaks it, and the search ends
    assert [len(fallbacks(trial)) for trial in search.trials] == [0, 1, 2, 3, 4, 3, 2, 1]
    assert fallbacks(search.best) == ("u3", "u9")


def test_mse_v2_stops_at_the_first_unit_that_breaks_the_goal():
    search = Search("mse_v2", space_of(), scripted(0, 0, 0, 0, 1, 1.1, 0.5)).run(stop_at_first=False)
    assert [trial.met for trial in search.trials] == [False, False, False, False, True, True, False]
    assert fallbacks(search.best) == ("u0", "u1", "u3")


@pytest.mark.parametrize("name", DIRECTED)
def test_what_falls_back_becomes_what_the_view_says(name):
    dynamic = replace(INT8, approach="dynamic")
    search = Search(name, space_of(), scripted(0.5, 1.0))
    search.view = replace(search.view, fallback=lambda assignment, unit: dynamic if unit == "u0" else FP32)
    search.run()
    assert search.trials[1].assignment.by_unit["u0"] == dynamic


# inside the loop


def run(name, *scores, model=None, resumed=False, **given):
    calls = []

    def evaluate(candidate):
        calls.append(candidate)
        return scores[min(len(calls), len(scores)) - 1]

    data = [np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)]
    arguments = validate_arguments(
        **{"strategies": STRATEGIES, "backends": ["default"], "progress": False, "strategy": name, **given}
    )
    result = tune(NumpyAdaptor(), model or random_model(5), data, evaluate, arguments).result
    assert len(calls) == result.evaluations == (0 if resumed else 1 + len(result.trials))
    return result


@pytest.mark.parametrize("name", ALL)
def test_success_at_once_costs_two_evaluations(name):
    result = run(name, 1.0, 1.2)
    assert (result.evaluations, result.met, dict(result.fallbacks)) == (2, True, {})


@pytest.mark.parametrize("name", ALL)
def test_an_unmet_goal_returns_the_best_within_max_trials(name):
    result = run(name, 1.0, 0.5, 0.8, 0.6, max_trials=6)
    assert len(result.trials) <= 6
    assert result.met is False
    assert result.score == max(trial.score for trial in result.trials)
    if name != "conservative":  # the numpy framework has one family of operators
        assert result.score == 0.8


@pytest.mark.parametrize("name", ALL)
def test_one_trial_only_returns_an_explicit_unmet_result(name):
    result = run(name, 1.0, 0.9, max_trials=1)
    assert (result.met, result.score, len(result.trials)) == (False, 0.9, 1)


@pytest.mark.parametrize("name", ["basic", "mse", "random"])
def test_falling_scores_still_return_the_first_model(name):
    result = run(name, *range(9, 0, -1), max_trials=6)
    assert result.met is False
    assert result.score == 8
    assert all(before > after for before, after in pairwise(trial.score for trial in result.trials))


@pytest.mark.parametrize("name", ["basic", "tpe"])
def test_a_stored_search_is_resumed(name, tmp_path):
    given = {"storage": f"sqlite:///{tmp_path / 'run.db'}"}
    first, again = (run(name, 1.0, 0.5, 0.6, max_trials=2, resumed=each, **given) for each in (False, True))
    assert [trial.score for trial in again.trials] == [trial.score for trial in first.trials]
