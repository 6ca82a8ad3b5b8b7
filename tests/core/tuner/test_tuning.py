"""The loop, on the tiny numpy framework: counted evaluations with scores we choose."""

import warnings

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import EvaluationError, ModelError, QuantizationError
from inc_autotune.core.tuner import tune
from inc_autotune.testing import MinimalNumpyAdaptor, NumpyAdaptor, Scores, random_model
from inc_autotune.testing.numpy_framework import NumpyModel


def data(samples: int = 64, features: int = 16, seed: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(8, features)).astype(np.float32) for _ in range(samples // 8)]


def arguments(**given):
    return validate_arguments(strategies=["auto"], backends=["default"], **{"progress": False, **given})


def run(evaluate, adaptor=None, model=None, **given):
    return tune(adaptor or NumpyAdaptor(), model or random_model(), data(), evaluate, arguments(**given))


@pytest.fixture(params=[NumpyAdaptor, MinimalNumpyAdaptor])
def adaptor(request):
    return request.param()


def test_success_at_once_costs_two_evaluations(adaptor):
    scores = Scores(1.0, 1.2)
    result = run(scores, adaptor).result
    assert (scores.calls, result.evaluations, result.met) == (2, 2, True)
    assert not result.fallbacks
    assert all(operator.dtype == "int8" for operator in result.operators)


def test_without_evaluation_everything_is_quantized_and_nothing_is_claimed(adaptor):
    result = run(None, adaptor).result
    assert (result.met, result.score, result.baseline, result.evaluations) == (None, None, None, 0)
    assert not result.fallbacks
    assert "no claim" in str(result)


def test_fallbacks_double_until_the_goal_is_met(adaptor):
    scores = Scores(1.0, 0.5, 0.6, 0.7, 1.0)
    result = run(scores, adaptor, random_model(8)).result
    assert scores.calls == 5
    assert result.met
    assert len(result.fallbacks) == 4


def test_the_goal_is_never_met_and_the_best_is_returned(adaptor):
    scores = Scores(1.0, 0.5, 0.9, 0.7, 0.6)
    tuned = run(scores, adaptor)
    assert tuned.model is not None
    assert tuned.result.met is False
    assert tuned.result.score == 0.9
    assert "NOT MET" in str(tuned.result)
    assert len(tuned.result.fallbacks) == 1


def test_one_trial_only_returns_an_explicit_unmet_result():
    result = run(Scores(1.0, 0.9), max_trials=1).result
    assert (result.met, result.score, len(result.trials)) == (False, 0.9, 1)


def test_every_fallback_has_a_reason():
    result = run(Scores(1.0, 0.5, 1.0)).result
    (reason,) = result.fallbacks.values()
    assert "harm rank 1 of 4" in reason
    assert "output error" in reason


def test_the_most_harmful_unit_falls_back_first():
    model = random_model(5)
    bad = model.layers[3]
    weight = bad.weight.copy()
    weight[:, 2] *= 500  # one input channel decides, and the rounding of the others drowns
    model = model.with_layers([type(bad)(bad.name, weight, bad.bias)])
    samples = np.concatenate(data(seed=2))
    reference = model(samples)

    def fidelity(candidate):
        return 1 - ((candidate(samples) - reference) ** 2).sum() / (reference**2).sum()

    result = run(
        fidelity,
        model=model,
        smoothquant_args=None,
        recipes={"smooth_quant": False},
        accuracy_criterion={"relative": 1e-9},
        max_trials=2,
    ).result
    first = result.trials[1].assignment.fallback_units
    ranked = run(Scores(1.0, 0.5, 1.0), model=model, recipes={"smooth_quant": False}).result
    assert first == tuple(ranked.fallbacks)


def test_a_list_of_alphas_is_tried_in_order_and_the_first_that_meets_wins():
    scores = Scores(1.0, 0.8, 1.1)
    result = run(scores, smoothquant_args={"alpha": [0.1, 0.15]}).result
    assert scores.calls == 3
    assert set(result.alphas.values()) == {0.15}


@pytest.mark.parametrize(("scores", "best"), [((1, 0.8, 0.9), 0.15), ((1, 0.9, 0.8), 0.1)])
def test_a_list_of_alphas_none_of_which_meets_keeps_the_best(scores, best):
    result = run(Scores(*scores, 0.0), smoothquant_args={"alpha": [0.1, 0.15]}, max_trials=2).result
    assert result.met is False
    assert set(result.alphas.values()) == {best}


def test_each_alpha_of_a_list_gives_a_model_of_its_own():
    """The old system quantized every trial with the first alpha of the list."""
    scores = Scores(1.0, 0.1, 0.1, 0.1)
    model = random_model(outlier=30.0)
    run(scores, model=model, smoothquant_args={"alpha": [0.2, 0.5, 0.8]}, max_trials=3)
    weights = [candidate.layers[1].weight for candidate in scores.models[1:]]
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


def test_auto_alpha_gives_each_layer_its_own():
    """The old system gave every layer the first layer's alpha."""
    from inc_autotune.core.analysis.smoothing_plan import plan_smoothing
    from inc_autotune.core.search.options import offered_options
    from inc_autotune.core.space.units import build_space

    adaptor, model = NumpyAdaptor(), random_model(6, 32, outlier=30.0)
    size = adaptor.calibrate(model, data(features=32), (64,))
    chosen = arguments(smoothquant_args={"alpha": "auto"})
    space = build_space(offered_options(adaptor, model))
    plans = plan_smoothing(adaptor, model, space, chosen.smoothquant_args, size)
    (layer_wise,) = [plan for plan in plans if plan.name == "layer-wise"]
    assert len(set(layer_wise.alphas.values())) > 1
    assert plans[0].output_error == min(plan.output_error for plan in plans)
    assert {"off", "layer-wise"} < {plan.name for plan in plans}


def test_smoothing_beats_plain_int8_on_outliers():
    result = run(None, model=random_model(outlier=30.0), smoothquant_args={"alpha": "auto"}).result
    errors = dict(result.smoothing)
    assert min(errors.values()) < 0.2 * errors["off"]
    assert result.alphas


def test_smoothing_can_be_forbidden():
    result = run(None, model=random_model(outlier=30.0), recipes={"smooth_quant": False}).result
    assert not result.alphas
    assert [name for name, _ in result.smoothing] == ["off"]


def test_an_evaluation_that_raises_loses_nothing():
    scores = Scores(1.0, 0.5, 0.6, 0.7, 0.65, ValueError("disk full"))
    with pytest.raises(EvaluationError, match=r"trial 5.*disk full") as caught:
        run(scores, model=random_model(12))
    partial = caught.value.partial_result
    assert [trial.score for trial in partial.trials] == [0.5, 0.6, 0.7, 0.65, None]
    assert "disk full" in partial.trials[-1].error
    assert partial.score == 0.7
    assert partial.met is False
    assert partial.model is not None
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("bad", [None, "0.5", [[1.0]], float("nan")])
def test_a_baseline_that_is_no_number_stops_before_any_trial(bad):
    scores = Scores(bad)
    with pytest.raises(EvaluationError, match="fp32 model"):
        run(scores)
    assert scores.calls == 1


def int8(tune_cfg):
    return {name for (name, _), config in tune_cfg["op"].items() if config["weight"]["dtype"] == "int8"}


class Fragile(NumpyAdaptor):
    """Does not build, or not run, models in which these operators are int8."""

    def __init__(self, *, build=(), run=()):
        super().__init__()
        self.bad_to_build, self.bad_to_run, self.ran = set(build), set(run), 0

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        if self.bad_to_build & int8(tune_cfg):
            raise MemoryError("no room")
        candidate = super().quantize(tune_cfg, model, dataloader, q_func)
        return Crashing(candidate.layers) if self.bad_to_run & int8(tune_cfg) else candidate


class Crashing(NumpyModel):
    def __call__(self, inputs):
        raise RuntimeError("view size is not allowed")


@pytest.mark.parametrize("smooth", [True, False], ids=["smoothed", "plain"])
@pytest.mark.parametrize("evaluated", [True, False], ids=["evaluated", "unevaluated"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"build": ["dense3"]}, "MemoryError: no room"),
        ({"run": ["dense1"]}, "RuntimeError: view size is not allowed"),
    ],
    ids=["build", "run"],
)
def test_an_operator_that_fails_stays_in_fp32_and_costs_no_evaluation(bad, error, evaluated, smooth):
    (name,) = next(iter(bad.values()))
    scores = Scores(1.0, 1.0) if evaluated else None
    tuned = run(scores, Fragile(**bad), random_model(8), recipes={"smooth_quant": smooth})
    assert tuned.result.fallbacks == {name: f"the model fails with it in int8: {error}"}
    assert sum(operator.dtype == "int8" for operator in tuned.result.operators) == 7
    assert tuned.result.evaluations == (2 if evaluated else 0)
    assert [trial.state for trial in tuned.result.trials] == ["complete"] * evaluated
    assert tuned.model(data()[0]).shape[0] == 8


def test_the_reason_of_a_failure_is_not_the_line_that_announces_a_trace():
    class Traced(NumpyModel):
        def __call__(self, inputs):
            raise RuntimeError(
                "Graph execution error:\n\nDetected at node (most recent call last):\n<stack traces unavailable>\n"
                'File "model.py", line 3\nno primitive for groups\n[[node]]'
            )

    class Adaptor(Fragile):
        def quantize(self, tune_cfg, model, dataloader, q_func=None):
            candidate = super().quantize(tune_cfg, model, dataloader, q_func)
            return Traced(candidate.layers) if isinstance(candidate, Crashing) else candidate

    tuned = run(None, Adaptor(run=["dense1"]), random_model(4), recipes={"smooth_quant": False})
    assert tuned.result.fallbacks == {
        "dense1": "the model fails with it in int8: RuntimeError: no primitive for groups"
    }


def test_several_operators_that_fail_are_left_out_and_the_search_goes_on():
    scores = Scores(1.0, 0.5, 0.6, 1.0)
    result = run(scores, Fragile(build=["dense0"], run=["dense6", "dense7"]), random_model(10)).result
    reasons = [name for name, reason in result.fallbacks.items() if "the model fails with it" in reason]
    assert reasons == ["dense0", "dense6", "dense7"]
    assert (result.met, result.evaluations, len(result.fallbacks)) == (True, 4, 5)


def test_where_every_operator_fails_there_is_no_model():
    every = {"run": [f"dense{index}" for index in range(4)]}
    for smooth in (True, False):
        with pytest.raises(QuantizationError, match="view size is not allowed"):
            run(None, Fragile(**every), recipes={"smooth_quant": smooth})


class FailsLater(Fragile):
    """Only what is built after the first candidates fails: found in a trial, not before."""

    def __init__(self, after, **bad):
        super().__init__()
        self.later, self.after, self.builds = bad, after, 0

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        self.builds += 1
        if self.builds > self.after:
            self.bad_to_build, self.bad_to_run = set(self.later.get("build", ())), set(self.later.get("run", ()))
        return super().quantize(tune_cfg, model, dataloader, q_func)


@pytest.mark.parametrize("bad", [{"build": ["dense2"]}, {"run": ["dense2"]}], ids=["build", "run"])
def test_an_operator_that_fails_in_a_trial_is_left_out_of_the_next(bad):
    class OnSamples:
        """A score of the model's own outputs, which a model that crashes does not give."""

        calls = 0

        def __call__(self, model):
            self.calls += 1
            model(data()[0])
            return 1.0

    evaluate = OnSamples()
    result = run(evaluate, FailsLater(1, **bad), recipes={"smooth_quant": False}).result
    assert [trial.state for trial in result.trials] == ["failed", "complete"]
    assert list(result.fallbacks) == ["dense2"]
    assert "the model fails with it in int8" in result.fallbacks["dense2"]
    assert result.met
    assert evaluate.calls == result.evaluations


def test_a_trial_before_an_operator_failed_can_still_be_the_best():
    result = run(Scores(1.0, 0.9, 0.5), FailsLater(2, build=["dense2"]), recipes={"smooth_quant": False}).result
    assert result.trials[0].score == 0.9
    assert result.chosen == 0
    assert not result.fallbacks
    assert all(operator.dtype == "int8" for operator in result.operators)


def test_operators_that_failed_are_known_to_a_resumed_run(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    bad = {"run": ["dense1"]}
    run(Scores(1.0, 0.5, ValueError("stop")), Fragile(**bad), storage=storage, max_trials=1)
    resumed = Fragile(**bad)
    result = run(Scores(1.0), resumed, storage=storage).result
    assert "the model fails with it" in result.fallbacks["dense1"]
    assert result.trials[0].score == 0.5


def test_an_evaluation_that_raises_on_a_model_that_runs_is_the_users():
    with pytest.raises(EvaluationError, match="disk full"):
        run(Scores(1.0, ValueError("disk full")))


def test_a_candidate_that_cannot_be_built_is_a_failed_trial_not_the_end():
    """No operator is to blame: fp32 fails at the time, too."""

    class ShortOfMemory(NumpyAdaptor):
        builds = 0

        def quantize(self, tune_cfg, model, dataloader, q_func=None):
            self.builds += 1
            if self.builds in (2, 3):
                raise MemoryError("no room")
            return super().quantize(tune_cfg, model, dataloader, q_func)

    result = run(Scores(1.0, 1.0), ShortOfMemory(), recipes={"smooth_quant": False}).result
    assert [trial.state for trial in result.trials] == ["failed", "complete"]
    assert "no room" in result.trials[0].error
    assert result.met


def test_no_candidate_at_all_is_an_error_with_the_reason():
    class Broken(MinimalNumpyAdaptor):
        def quantize(self, tune_cfg, model, dataloader, q_func=None):
            raise MemoryError("no room")

    with pytest.raises(QuantizationError, match="no room"):
        run(Scores(1.0), Broken())


def test_lower_is_better():
    criterion = {"relative": 0.1, "higher_is_better": False}
    assert run(Scores(10.0, 10.9), accuracy_criterion=criterion).result.met
    assert not run(Scores(10.0, 11.1), accuracy_criterion=criterion, max_trials=1).result.met


def test_rules_keep_an_operator_in_fp32_with_a_reason():
    fp32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    result = run(Scores(1.0, 1.0), op_name_dict={"dense[01]": fp32}).result
    assert set(result.fallbacks) == {"dense0", "dense1"}
    assert "ruled out" in result.fallbacks["dense0"]
    with pytest.raises(ModelError, match="nothing to quantize"):
        run(Scores(1.0), op_type_dict={"Dense": fp32})


def test_nothing_to_quantize_says_why():
    class Advised(NumpyAdaptor):
        def fp32_reason(self, model, name, config):
            return "the kernel is slow here"

    with pytest.raises(ModelError, match=r"nothing to quantize.*dense0 and 3 more: the kernel is slow here"):
        run(None, Advised())


def test_sampling_sizes_are_trials_of_their_own_on_one_pass():
    scores = Scores(1.0, 0.5, 1.0)
    result = run(scores, sampling_sizes=[16, 48]).result
    assert result.sampling_size == 48
    assert [trial.assignment.sampling_size for trial in result.trials] == [16, 48]


def test_more_samples_than_there_are_is_no_error():
    assert run(None, sampling_sizes=[1000, 2000]).result.sampling_size == 64


def test_time_left_is_used_for_fewer_fallbacks():
    scores = Scores(1.0, 0.5, 0.6, 0.7, 1.0, 1.0, 0.9)
    result = run(scores, model=random_model(9), tuning_time=1000).result
    # 1, 2, 4 fail or meet at 4 -> between 2 and 4 lies 3
    assert result.met
    assert len(result.fallbacks) == 3


def test_a_passed_time_limit_still_returns_the_best():
    result = run(Scores(1.0, 0.5), tuning_time=1e-9).result
    assert (len(result.trials), result.met) == (1, False)


def test_a_stored_study_is_resumed_without_repeating_an_evaluation(tmp_path):
    storage = f"sqlite:///{tmp_path / 'run.db'}"
    first = Scores(1.0, 0.5, 0.6, ValueError("killed"))
    with pytest.raises(EvaluationError):
        run(first, model=random_model(8), storage=storage)
    second = Scores(1.0)
    result = run(second, model=random_model(8), storage=storage).result
    assert second.calls == result.evaluations == 1
    assert [trial.score for trial in result.trials] == [0.5, 0.6, None, 1.0]
    assert result.trials[2].assignment == result.trials[3].assignment
    assert result.baseline == 1.0


def test_a_changed_model_starts_a_new_study(tmp_path):
    storage = f"sqlite:///{tmp_path / 'run.db'}"
    run(Scores(1.0, 1.0), storage=storage)
    scores = Scores(1.0, 1.0)
    run(scores, model=random_model(seed=5), storage=storage)
    assert scores.calls == 2


def test_the_same_seed_gives_the_same_result():
    outputs = [run(None, model=random_model(outlier=30.0)).model(np.concatenate(data())) for _ in range(2)]
    np.testing.assert_array_equal(*outputs)


def test_nothing_is_printed(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(Scores(1.0, 0.9), max_trials=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), np.float32("nan")])
def test_a_score_that_is_not_finite_is_a_failed_trial_not_the_end(tmp_path, bad):
    given = {"storage": f"sqlite:///{tmp_path / 'run.db'}"}
    given["accuracy_criterion"] = {"relative": 0.01, "higher_is_better": False}
    scores = Scores(20.0, 20.4, bad, 20.0)
    result = run(scores, model=random_model(8), **given).result
    assert [trial.state for trial in result.trials] == ["complete", "failed", "complete"]
    assert result.trials[1].error == f"the score is {bad}"
    assert not result.trials[1].interrupted
    assert (result.met, result.score, scores.calls) == (True, 20.0, 4)
    assert run(scores, model=random_model(8), **given).result.evaluations == 0


def test_the_alphas_after_one_that_overflows_are_tried():
    scores = Scores(1.0, float("nan"), 1.0)
    result = run(scores, smoothquant_args={"alpha": [0.1, 0.5]}).result
    assert scores.calls == 3
    assert set(result.alphas.values()) == {0.5}


@pytest.mark.parametrize("form", [np.asarray, iter])
def test_one_sample_that_overflows_fails_its_candidate(form):
    right = np.arange(400) % 10 > 0
    evaluations = iter([right.astype(float), np.where(np.arange(400) == 20, np.nan, right), right.astype(float)])
    result = run(lambda model: form(next(evaluations)), accuracy_criterion={"relative": 0.1}).result
    assert result.trials[0].error == "the score of sample 20 is nan"
    assert result.met


def test_an_interruption_by_the_user_loses_nothing():
    scores = Scores(1.0, 0.5, 0.6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        run(scores, model=random_model(12))
    partial = caught.value.partial_result
    assert [trial.score for trial in partial.trials] == [0.5, 0.6, None]
    assert partial.trials[-1].interrupted
    assert (partial.score, partial.met) == (0.6, False)
    assert partial.model is not None


class NumpyAdaptorWithSpeed(NumpyAdaptor):
    def measure(self, models):
        return [2.0, 1.0]


def test_a_simulated_model_claims_no_speed():
    class Simulated(NumpyAdaptorWithSpeed):
        def is_simulated(self, name, config):
            return name == "dense0"

    result = tune(Simulated(), random_model(), data(), None, arguments()).result
    assert result.speedup is None
    assert any("1 operators simulated in fp32" in note for note in result.notes)
    assert tune(NumpyAdaptorWithSpeed(), random_model(), data(), None, arguments()).result.speedup == 2.0


@pytest.mark.parametrize("tuning_time", [0, 1000])
def test_a_measurement_that_fails_costs_the_figure_and_not_the_run(tuning_time):
    class Unmeasurable(NumpyAdaptor):
        def measure(self, models):
            raise MemoryError("no room")

    result = run(Scores(1.0), Unmeasurable(), tuning_time=tuning_time, max_trials=1).result
    assert (result.met, result.speedup) == (True, None)
    assert [note for note in result.notes if "MemoryError: no room" in note] == [
        "objective 'performance' could not be measured: MemoryError: no room"
    ]


def test_an_interrupted_measurement_does_not_repeat_the_evaluation(tmp_path):
    class Interrupted(NumpyAdaptor):
        measured = 0

        def measure(self, models):
            self.measured += 1
            if self.measured > 1:  # the first is that of the whole model, before any trial
                raise KeyboardInterrupt
            return [2.0, 1.0]

    storage = f"sqlite:///{tmp_path / 'run.db'}"
    with pytest.raises(KeyboardInterrupt):
        run(Scores(1.0), Interrupted(), tuning_time=1000, storage=storage)
    result = run(Scores(1.0), storage=storage).result
    assert (result.evaluations, result.met, len(result.trials)) == (0, True, 1)


def test_a_harmful_unit_takes_the_first_rung_that_takes_its_harm_away():
    from inc_autotune.core.analysis.sensitivity import choose_fallback, rank_units
    from inc_autotune.core.op_config import FP32
    from inc_autotune.core.search.options import offered_options
    from inc_autotune.core.space.units import build_space

    finer = {
        "int8": {
            "dynamic": {
                "Dense": {
                    "weight": {
                        "dtype": ["int8"],
                        "scheme": ["sym"],
                        "granularity": ["per_channel"],
                        "algorithm": ["minmax"],
                    },
                    "activation": {
                        "dtype": ["uint8"],
                        "scheme": ["asym"],
                        "granularity": ["per_tensor"],
                        "algorithm": ["minmax"],
                    },
                }
            }
        }
    }

    class Rungs(NumpyAdaptor):
        """Counts a dynamic operator as exact."""

        def quantize(self, tune_cfg, model, dataloader, q_func=None):
            static = {
                operator: config
                for operator, config in tune_cfg["op"].items()
                if config["activation"].get("quant_mode") == "static"
            }
            return super().quantize({**tune_cfg, "op": static}, model, dataloader, q_func)

    for adaptor, expected in ((Rungs(finer), "dynamic"), (NumpyAdaptor(finer), None), (NumpyAdaptor(), None)):
        model = random_model()
        size = adaptor.calibrate(model, data(), (64,))
        space = build_space(offered_options(adaptor, model))
        assignment = space.default(size)
        worst = rank_units(adaptor, model, space, assignment)[0]
        chosen = choose_fallback(adaptor, model, space, assignment, worst)
        assert chosen.approach == expected
        assert expected or chosen == FP32


def per_sample(*shares: float, count: int = 400):
    """Evaluations that return arrays of right (1) and wrong (0), each with this share of right ones."""
    return Scores(*(np.arange(count) < share * count for share in shares))


def test_per_sample_scores_are_judged_with_an_interval():
    result = run(per_sample(0.9, 0.5, 0.9), accuracy_criterion={"relative": 0.1}).result
    assert [trial.verdict for trial in result.trials] == ["fail", "pass"]
    low, high = result.trials[0].interval
    assert low < 0.4 < high
    assert result.trials[0].samples == 400
    assert "95 % interval of the loss" in result.evidence
    assert "verdict: pass" in str(result)


def test_one_number_says_that_no_interval_is_known():
    result = run(Scores(1.0, 1.0)).result
    assert (result.trials[0].verdict, result.trials[0].interval) == ("pass", None)
    assert "no interval" in result.evidence


def test_a_generator_is_stopped_when_the_verdict_is_clear():
    read = []

    def evaluate(model):
        is_baseline = not read
        read.append(0)
        for index in range(2000):
            read[-1] += 1
            yield float(index % 10 > 0) if is_baseline else float(index % 10 > 5)

    result = run(evaluate, max_trials=1).result
    assert read[0] == 2000
    assert read[1] < 500
    assert result.met is False
    assert result.score == pytest.approx(0.4, abs=0.1)


def test_other_samples_than_the_baselines_are_an_error():
    with pytest.raises(EvaluationError, match=r"2000|400"):
        run(Scores(np.ones(400), np.ones(2000)))


def test_a_resumed_study_keeps_the_pairing(tmp_path):
    storage = f"sqlite:///{tmp_path / 'run.db'}"
    with pytest.raises(EvaluationError):
        run(Scores(np.arange(400) < 360, ValueError("killed")), storage=storage, accuracy_criterion={"relative": 0.1})
    scores = per_sample(0.9)
    result = run(scores, storage=storage, accuracy_criterion={"relative": 0.1}).result
    assert (scores.calls, result.trials[-1].verdict, result.trials[-1].samples) == (1, "pass", 400)
