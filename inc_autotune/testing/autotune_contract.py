"""The contract of `autotune` in every framework, as a test class to subclass."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from inc_autotune.core.errors import EvaluationError
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.testing.evaluators import Closeness, Scores

QUIET = {"progress": False, "sampling_sizes": [32]}
WITHOUT_SMOOTHING = {"recipes": {"smooth_quant": False}}


class AutotuneContract(ABC):
    """Subclass it in a test file, implement the methods, and pytest runs the contract on your framework.

    The model should have at least three quantizable operators, which are decided apart, and run in milliseconds. Its
    speed must decide nothing, since the speed-up of a toy model is noise: give an adaptor that times no units, or
    replace its timer.
    """

    reachable: float = 0.2
    """An upper bound of the relative error of the outputs with every operator in int8."""

    algorithms: tuple[str, ...] = ("kl", "percentile", "mse")
    """Calibration algorithms that the capability offers, without minmax."""

    @abstractmethod
    def make_model(self) -> Any:
        """A small fp32 model, equal at every call."""

    @abstractmethod
    def make_data(self) -> Any:
        """Calibration data of 32 samples or more in several batches of one size, equal at every call."""

    @abstractmethod
    def tune(self, model: Any, data: Any, evaluate: Any = None, **arguments: Any) -> Any:
        """Call the framework's `autotune` with arguments that all frameworks share, see `core.arguments`.

        The argument `labelled` is the labelled data for `eval_metric`, whose name differs among frameworks.
        """

    @abstractmethod
    def deployed(self, tuned: Any) -> Any:
        """The deployed form of a tuned model, as an evaluation gets it."""

    @abstractmethod
    def in_fp32(self, model: Any) -> Any:
        """The fp32 model, as an evaluation gets it."""

    @abstractmethod
    def outputs(self, model: Any) -> np.ndarray[Any, Any]:
        """The outputs of a model, as an evaluation gets it, on fixed inputs that are no calibration data."""

    def result(self, tuned: Any) -> TuningResult:
        """The tuning result of a tuned model."""
        found: TuningResult = tuned.tuning_result
        return found

    def labelled(self, model: Any) -> Any:
        """Batches of (inputs, labels); labels are the classes that the fp32 model finds. None: no test of metrics."""
        return None

    def closeness(self) -> Closeness:
        """An evaluation: 1 minus the relative error against the fp32 model."""
        return Closeness(self.outputs, self.outputs(self.in_fp32(self.make_model())))

    def tuned(self, evaluate: Any = None, **arguments: Any) -> Any:
        """The model of the contract, tuned without warnings about speed."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the tuned model is not faster")
            return self.tune(self.make_model(), self.make_data(), evaluate, **{**QUIET, **arguments})

    def _evaluation_error(self, evaluate: Any, **arguments: Any) -> EvaluationError:
        try:
            self.tuned(evaluate, **arguments)
        except EvaluationError as error:
            return error
        raise AssertionError("no EvaluationError was raised")

    def test_a_goal_within_reach_is_met_in_one_trial_with_everything_quantized(self) -> None:
        closeness = self.closeness()
        tuned = self.tuned(closeness, accuracy_criterion={"absolute": self.reachable})
        result = self.result(tuned)
        assert result.met is True
        assert closeness.calls == result.evaluations == 2
        assert {operator.dtype for operator in result.operators if not operator.reason} == {"int8"}
        assert not any("rank" in operator.reason for operator in result.operators), "nothing fell back for accuracy"
        assert result.size_ratio is None or result.size_ratio > 1
        assert result.speedup is None or result.speedup > 0
        assert str(result).startswith("Goal met")
        assert result.score is not None
        assert abs(closeness(self.deployed(tuned)) - result.score) < 1e-6, "the score is that of the model handed out"

    def test_a_goal_out_of_reach_keeps_the_best_and_warns(self) -> None:
        scores = Scores(1.0, 0.5, 0.6, 0.4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            arguments: dict[str, Any] = {**QUIET, **WITHOUT_SMOOTHING, "max_trials": 3}
            tuned = self.tune(self.make_model(), self.make_data(), scores, **arguments)
        result = self.result(tuned)
        assert (result.met, result.score, result.baseline) == (False, 0.6, 1.0)
        assert scores.calls == result.evaluations == 4
        assert any("the accuracy goal was not met" in str(warning.message) for warning in caught)
        assert str(result).startswith("GOAL NOT MET")
        assert np.isfinite(self.outputs(self.deployed(tuned))).all()

    def test_the_most_harmful_operator_falls_back_with_a_reason(self) -> None:
        arguments = {**WITHOUT_SMOOTHING, "excluded_precisions": ["bf16"], "approach": "static"}
        closeness = self.closeness()
        everything = self.result(self.tuned(closeness, accuracy_criterion={"absolute": 10.0}, **arguments)).score
        assert everything is not None
        goal = (1.0 - everything) * 0.999  # the model with everything in int8 just misses it
        result = self.result(self.tuned(closeness, accuracy_criterion={"absolute": goal}, **arguments))
        assert result.met is True
        assert len(result.trials) > 1
        fallen = [operator for operator in result.operators if "rank" in operator.reason]
        assert 0 < len(fallen) < len(result.operators)
        assert all(operator.dtype == "fp32" or operator.approach == "dynamic" for operator in fallen)

    def test_without_an_evaluation_nothing_is_claimed(self) -> None:
        result = self.result(self.tuned())
        assert (result.met, result.score, result.baseline, result.evaluations) == (None, None, None, 0)
        assert result.trials == ()
        assert "no claim" in str(result)

    def test_a_metric_and_labelled_data_evaluate(self) -> None:
        labelled = self.labelled(self.make_model())
        if labelled is None:
            return
        result = self.result(self.tuned(labelled=labelled, eval_metric="accuracy"))
        assert result.baseline == 1.0
        assert result.score is not None
        assert 0.9 < result.score <= 1.0

    def test_an_evaluation_that_raises_keeps_what_was_found(self) -> None:
        error = self._evaluation_error(Scores(1.0, 0.5, ZeroDivisionError("no samples")), **WITHOUT_SMOOTHING)
        assert "ZeroDivisionError in trial 2" in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
        partial = error.partial_result
        assert partial is not None
        assert [trial.score for trial in partial.trials] == [0.5, None]
        assert (partial.met, partial.score) == (False, 0.5)
        assert np.isfinite(self.outputs(self.deployed(partial.model))).all()

    def test_a_storage_resumes_and_nothing_is_evaluated_twice(self, tmp_path: Path) -> None:
        arguments = {**WITHOUT_SMOOTHING, "storage": f"sqlite:///{tmp_path}/trials.db", "study_name": "contract"}
        self._evaluation_error(Scores(1.0, 0.5, RuntimeError("out of memory")), **arguments)
        again = Scores(1.0)
        resumed = self.result(self.tuned(again, **arguments))
        assert again.calls == 1, "neither the baseline nor the finished trial is repeated"
        assert [trial.score for trial in resumed.trials if trial.score is not None] == [0.5, 1.0]
        finished = Scores(0.0)
        repeated = self.result(self.tuned(finished, **arguments))
        assert (finished.calls, repeated.evaluations, repeated.score) == (0, 0, 1.0)

    def test_every_calibration_algorithm_gives_a_model(self) -> None:
        for algorithm in self.algorithms:
            rule = {"activation": {"algorithm": [algorithm]}}
            types = {operator.type for operator in self.result(self.tuned()).operators if operator.dtype == "int8"}
            arguments = {**WITHOUT_SMOOTHING, "accuracy_criterion": {"absolute": 0.4}}
            result = self.result(self.tuned(self.closeness(), op_type_dict=dict.fromkeys(types, rule), **arguments))
            configs = [operator.config for operator in _recipe(result).operators.values()]
            assert {config.activation.algorithm for config in configs if config.is_quantized} == {algorithm}
            assert result.met is True

    def test_the_same_call_gives_the_same_model(self) -> None:
        first, second = (self.tuned(self.closeness(), accuracy_criterion={"absolute": 1.0}) for _ in range(2))
        assert _recipe(self.result(first)).to_yaml() == _recipe(self.result(second)).to_yaml()
        np.testing.assert_array_equal(self.outputs(self.deployed(first)), self.outputs(self.deployed(second)))

    def test_max_trials_bounds_the_evaluations(self) -> None:
        scores = Scores(1.0, 0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = self.result(self.tuned(scores, max_trials=2))
        assert any("goal was not met in 2 trials" in str(warning.message) for warning in caught)
        assert scores.calls == result.evaluations == 3
        assert len(result.trials) == 2


def _recipe(result: TuningResult) -> Recipe:
    assert result.recipe is not None
    return result.recipe
