"""Training as a rung of the search, on the tiny numpy framework: counted calls, with scores we choose."""

from pathlib import Path

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError, EvaluationError, QuantizationError, TrainingError
from inc_autotune.core.tuner import tune
from inc_autotune.testing import MinimalNumpyAdaptor, NumpyAdaptor, Scores, random_model
from tests.core.tuner.test_tuning import data


class Train:
    """Adds to every weight; counts its calls and remembers the first weight that each began with."""

    def __init__(self, step: float = 0.01, *errors: BaseException) -> None:
        self.step, self.errors = step, list(errors)
        self.starts: list[float] = []

    def __call__(self, student):
        self.starts.append(float(student.layers[0].weight[0, 0]))
        for layer in student.layers:
            layer.weight[...] += self.step
        if self.errors:
            raise self.errors.pop()


def arguments(**given):
    return validate_arguments(
        strategies=["auto", "basic", "random"],
        backends=["default"],
        **{"progress": False, "recipes": {"smooth_quant": False}, **given},
    )


def run(evaluate, train_func, model=None, adaptor=None, **given):
    given = arguments(train_func=train_func, **given)
    return tune(adaptor or NumpyAdaptor(), model or random_model(), data(), evaluate, given)


def first_weight(model):
    return float(model.layers[0].weight[0, 0])


def test_nothing_is_trained_where_post_training_meets_the_goal():
    train = Train()
    result = run(Scores(1.0, 1.0), train).result
    assert (result.met, train.starts, result.trained) == (True, [], False)


def test_training_comes_before_any_operator_falls_back():
    train = Train()
    result = run(Scores(1.0, 0.5, 1.0), train).result
    assert result.met
    assert [trial.label for trial in result.trials] == [
        "all quantized, smoothing off",
        "all quantized, smoothing off, trained",
    ]
    assert not result.fallbacks
    assert result.trained
    assert all(operator.trained for operator in result.operators)
    assert result.trials[1].training_seconds is not None
    assert "trained: 4 of 4 operators" in str(result)
    assert result.recipe.metadata["trained"] == ["dense0", "dense1", "dense2", "dense3"]


def test_the_trained_weights_are_those_that_are_evaluated_and_returned():
    scores = Scores(1.0, 0.5, 1.0)
    model = random_model()
    before = first_weight(model)
    tuned = run(scores, Train(step=0.5), model)
    assert first_weight(tuned.model) == pytest.approx(before + 0.5, abs=0.05)
    assert first_weight(scores.models[2]) == first_weight(tuned.model)
    assert first_weight(model) == before, "the user's model is not changed"


def test_later_rungs_are_trained_from_the_weights_of_the_best_one():
    train, model = Train(step=1.0), random_model(8)
    result = run(Scores(1.0, 0.5, 0.6, 0.55, 1.0), train, model).result
    assert train.starts == pytest.approx([first_weight(model) + step for step in (0, 1, 1)], abs=1e-5)
    assert [trial.trained_from for trial in result.trials] == [None, None, 1, 1]
    assert [len(trial.assignment.fallback_units) for trial in result.trials] == [0, 0, 1, 2]
    assert all(trial.assignment.trained for trial in result.trials[1:])


def test_with_approach_qat_training_begins_at_once():
    train = Train()
    result = run(Scores(1.0, 1.0), train, approach="qat").result
    assert (result.met, result.evaluations, len(train.starts), result.trained) == (True, 2, 1, True)


def test_without_an_evaluation_only_approach_qat_trains():
    train = Train()
    result = run(None, train).result
    assert train.starts == []
    assert any("train_func was not called" in note for note in result.notes)
    result = run(None, train, approach="qat").result
    assert (len(train.starts), result.trained, result.met) == (1, True, None)


def test_a_training_that_does_not_help_is_left_and_operators_fall_back():
    train = Train()
    result = run(Scores(1.0, 0.5, 0.4, 1.0), train).result
    assert (result.met, len(train.starts), result.trained) == (True, 1, False)
    assert len(result.fallbacks) == 1
    assert "a model that was not trained is the best" in str(result)


def test_the_best_model_is_returned_where_training_does_not_suffice_either():
    result = run(Scores(1.0, 0.5, 0.9, 0.7), Train(), max_trials=3).result
    assert (result.met, result.score, result.trained) == (False, 0.9, True)


def nothing(student):
    pass


def spoil(student):
    student.layers[1].weight[0, 0] = np.nan


@pytest.mark.parametrize(
    ("train_func", "text"), [(nothing, "changed nothing"), (spoil, "left NaN or infinity in 'dense1.weight'")]
)
def test_a_training_without_use_is_a_note_and_the_search_goes_on(train_func, text):
    scores = Scores(1.0, 0.5, 1.0)
    result = run(scores, train_func).result
    assert result.met
    assert scores.calls == 3, "the useless model is not evaluated"
    assert result.trials[1].state == "failed"
    assert text in result.trials[1].error
    assert any(text in note for note in result.notes)
    assert len(result.fallbacks) == 1


@pytest.mark.parametrize("train_func", [nothing, spoil])
def test_a_training_without_use_leaves_the_quantized_model_where_nothing_is_evaluated(train_func):
    result = run(None, train_func, approach="qat").result
    assert not result.trained
    assert any("train_func" in note for note in result.notes)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda student: "loss 0.1", "returned a str"),
        (lambda student: random_model(3), "has no longer 'dense3.bias'"),
        (lambda student: random_model(features=8), "changed the shape of 'dense0.weight' from (16, 16) to (8, 8)"),
        (
            lambda student: student.with_layers(
                [type(layer)(layer.name, layer.weight.astype(np.float16), layer.bias) for layer in student.layers]
            ),
            "changed the dtype of 'dense0.weight' from float32 to float16",
        ),
    ],
    ids=["text", "fewer layers", "other shapes", "half precision"],
)
def test_another_model_is_an_error_that_keeps_what_was_found(returned, text):
    with pytest.raises(TrainingError) as caught:
        run(Scores(1.0, 0.5), returned)
    assert text in str(caught.value)
    assert caught.value.partial_result.score == 0.5
    assert caught.value.student is not None


def test_a_train_func_that_raises_loses_nothing():
    train = Train(0.01, ZeroDivisionError("epoch 3"))
    with pytest.raises(TrainingError, match="ZeroDivisionError: epoch 3") as caught:
        run(Scores(1.0, 0.5), train)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    partial = caught.value.partial_result
    assert [trial.score for trial in partial.trials] == [0.5, None]
    assert first_weight(caught.value.student) == pytest.approx(train.starts[0] + 0.01, abs=1e-5)


def test_a_resumed_run_goes_on_with_what_an_interrupted_training_left(tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    train = Train(1.0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(Scores(1.0, 0.5), train, storage=storage)
    result = run(Scores(1.0), train, storage=storage).result
    assert train.starts[1] == pytest.approx(train.starts[0] + 1, abs=1e-5)
    assert any("went on from what an interrupted one had left" in note for note in result.notes)
    assert not list((tmp_path / "run.db.trained").glob("*interrupted*"))


def test_what_was_trained_outlives_an_evaluation_that_raises(tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    train = Train()
    with pytest.raises(EvaluationError):
        run(Scores(1.0, 0.5, RuntimeError("no memory")), train, storage=storage)
    result = run(Scores(1.0), train, storage=storage).result
    assert (len(train.starts), result.met, result.trained) == (1, True, True)
    assert Path(result.weights_file).parent == tmp_path / "run.db.trained"
    again = run(Scores(0.0), train, storage=storage)
    assert (len(train.starts), again.result.evaluations, again.result.trained) == (1, 0, True)
    Path(result.weights_file).unlink()
    with pytest.raises(QuantizationError, match="trained weights of a finished trial are gone"):
        run(Scores(0.0), train, storage=storage)


def test_a_storage_that_is_no_file_gets_a_note():
    adaptor = NumpyAdaptor()
    adaptor.fingerprint = lambda model: None  # such a run has no study of its own
    result = run(Scores(1.0), Train(), adaptor=adaptor, storage="sqlite:///:memory:").result
    assert any("in memory only" in note for note in result.notes)


def test_a_folder_keeps_what_a_storage_that_is_no_file_cannot(tmp_path):
    given = {"training_args": {"folder": tmp_path}, "storage": "sqlite:///:memory:", "approach": "qat"}
    first, second = Train(), Train()
    (weights,) = {run(Scores(1.0), train, **given).result.weights_file for train in (first, second)}
    assert weights.startswith(str(tmp_path))
    assert (len(first.starts), len(second.starts)) == (1, 0), "weights are found again, whatever became of the trials"


def test_another_train_func_trains_anew_and_keeps_the_scores_of_the_others(tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    first = Train(step=0.5)
    assert run(Scores(1.0, 0.5, 0.6), first, storage=storage, max_trials=2).result.score == 0.6
    scores, second = Scores(1.0), Train(step=0.25)
    result = run(scores, second, storage=storage).result
    assert (scores.calls, result.met) == (1, True)
    assert second.starts == first.starts, "what another function trained is no start"
    assert len(result.trials) == 3


@pytest.mark.parametrize("strategy", ["basic", "random"])
def test_every_strategy_trains_before_it_falls_back(strategy):
    train = Train()
    result = run(Scores(1.0, 0.5, 1.0), train, strategy=strategy).result
    assert (len(train.starts), result.trained, result.fallbacks) == (1, True, {})


def test_time_that_is_left_looks_for_fewer_fallbacks_among_trained_models():
    train = Train()
    result = run(Scores(1.0, 0.5, 0.6, 0.7, 1.0, 0.8, 0.8), train, random_model(8), tuning_time=1000).result
    assert result.met
    assert all(trial.assignment.trained for trial in result.trials[1:])
    assert len(train.starts) == len(result.trials) - 1


def test_an_adaptor_without_training_refuses_a_train_func():
    with pytest.raises(ArgumentError, match="train_func"):
        run(Scores(1.0), Train(), adaptor=MinimalNumpyAdaptor())


def test_bad_arguments_are_refused():
    with pytest.raises(ArgumentError, match="there is no train_func"):
        arguments(approach="qat")
    with pytest.raises(ArgumentError, match="3 is an int, no function"):
        arguments(train_func=3)
