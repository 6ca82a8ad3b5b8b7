"""Metrics over batches, and the arguments that name an evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError
from inc_autotune.core.evaluation.function import check_evaluation_arguments
from inc_autotune.core.evaluation.metric import make_metric, metric_value

SCORES = np.asarray([[3.0, 1, 0], [0, 2, 1], [0, 1, 2], [5, 1, 0]])


def value_of(metric: Any, *batches: tuple[Any, Any]) -> Any:
    made = make_metric(metric)
    made.update(SCORES, np.zeros(4, int))
    made.reset()
    for predictions, labels in batches:
        made.update(predictions, labels)
    return made.compute()


def test_accuracy() -> None:
    assert value_of("accuracy", (SCORES, np.asarray([0, 1, 0, 0])), (SCORES[:1], [1])) == 3 / 5


def test_accuracy_of_tokens_leaves_out_ignored_labels() -> None:
    labels = np.asarray([[0, 1], [-100, 1]])
    assert value_of("accuracy", (SCORES.reshape(2, 2, 3), labels)) == 2 / 3
    assert value_of("accuracy", (SCORES.reshape(2, 2, 3).transpose(0, 2, 1), labels)) == 2 / 3
    assert math.isnan(value_of("accuracy", (SCORES, np.full(4, -100))))


def test_accuracy_of_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"ndarray float64 \[4, 3\] do not fit labels ndarray int64 \[3\]"):
        value_of("accuracy", (SCORES, np.arange(3)))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([np.asarray([1, 2]), np.asarray([3])], [1, 2, 3]),
        ([np.asarray(1), np.asarray(2)], [1, 2]),
        ([1, 2], [1, 2]),
        ([["a"], ["b", "c"]], ["a", "b", "c"]),
        ([(np.asarray([1]), 5), (np.asarray([2]), 6)], [[1, 2], [5, 6]]),
        ([{"a": np.asarray([1])}, {"a": np.asarray([2])}], {"a": [1, 2]}),
        (["x", "y"], ["x", "y"]),
    ],
)
def test_a_function_gets_all_batches_at_once(labels: list[Any], expected: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else list(value)

    def metric(predictions: Any, collected: Any) -> Any:
        return predictions.shape, plain(collected)

    assert value_of(metric, (SCORES, labels[0]), (SCORES[:1], labels[1])) == ((5, 3), expected)


def test_batches_that_cannot_be_concatenated() -> None:
    with pytest.raises(DataError, match="outputs of different batches"):
        value_of(lambda predictions, labels: 0, (np.ones((2, 3)), 0), (np.ones((2, 4)), 0))


@pytest.mark.parametrize("end", ["compute", "result"])
def test_an_object_is_fed_batch_by_batch(end: str) -> None:
    class Count:
        def reset(self) -> None:
            self.total = 0

        def update(self, predictions: Any, labels: Any) -> None:
            self.total = getattr(self, "total", 0) + len(predictions)

    setattr(Count, end, lambda self: self.total)
    assert value_of(Count(), (SCORES, None), (SCORES[:2], None)) == 6


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("acuracy", "Did you mean 'accuracy'?"),
        (5, "eval_metric=5 cannot be called"),
        (dict, "Give an instance: dict()"),
    ],
)
def test_unusable_metrics(metric: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make_metric(metric)
    assert words in str(caught.value)


def test_the_value_of_a_metric_is_one_number() -> None:
    assert metric_value(np.float32(0.5), "accuracy") == 0.5
    for value in (None, True, "0.5", [1, 2], np.ones(2)):
        with pytest.raises(EvaluationError, match="eval_metric accuracy returned"):
            metric_value(value, "accuracy")


def combined(loader: Any, metric: Any) -> Any:
    return lambda model: (loader, metric, model)


def test_the_ways_to_evaluate() -> None:
    assert check_evaluation_arguments(None, None, None, combined) is None
    assert check_evaluation_arguments(len, None, None, combined) is len
    evaluate = check_evaluation_arguments(None, [1], "accuracy", combined)
    assert evaluate is not None
    assert evaluate("model") == ([1], "accuracy", "model")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((len, [1], None), "eval_func and eval_dataloader are both given"),
        ((len, [1], "accuracy"), "eval_func and eval_dataloader and eval_metric are both given"),
        (([1], None, None), "eval_func=[1] cannot be called"),
        ((None, [1], None), "eval_dataloader is given without eval_metric"),
        ((None, None, "accuracy"), "eval_metric is given without eval_dataloader"),
        ((None, iter([1]), "accuracy"), "list_iterator, which can be read only once"),
    ],
)
def test_evaluations_that_are_refused(arguments: tuple[Any, Any, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_evaluation_arguments(*arguments, combined)
    assert words in str(caught.value)
