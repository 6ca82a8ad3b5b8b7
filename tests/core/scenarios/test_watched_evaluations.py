"""Evaluations that do not end, and passes that chance could explain."""

from __future__ import annotations

import itertools
import time
import warnings

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import EvaluationError
from inc_autotune.core.evaluation import verdict
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.study import history
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, Scores, random_model

WIDTH = 8
DATA = [np.random.default_rng(1).normal(size=(8, WIDTH)).astype(np.float32)]


def run(evaluate, **given):
    arguments = validate_arguments(strategies=STRATEGIES, backends=["default"], progress=False, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tune(NumpyAdaptor(), random_model(4, WIDTH), DATA, evaluate, arguments).result


class Endless:
    """Yields scores for ever, from right or wrong answers; counts the iterators that were closed."""

    def __init__(self, piece=1, wait=0.001):
        self.piece, self.wait, self.closed = piece, wait, 0

    def __call__(self, model):
        try:
            for sample in itertools.count():
                time.sleep(self.wait)
                yield np.full(self.piece, float(sample % 3 > 0)) if self.piece > 1 else float(sample % 3 > 0)
        finally:
            self.closed += 1


@pytest.mark.parametrize("piece", [1, 7])
def test_tuning_time_ends_an_evaluation_of_fp32_that_does_not_end(piece, tmp_path):
    evaluate = Endless(piece)
    storage = f"sqlite:///{tmp_path}/run.db"
    result = run(evaluate, tuning_time=0.2, storage=storage)
    (note,) = [each for each in result.notes if each.startswith("evaluation: ")]
    count = int(note.split()[-2])
    assert "not over within tuning_time" in note
    assert count >= 32
    assert result.met
    assert all(trial.samples <= count for trial in result.trials)
    assert evaluate.closed == result.evaluations
    again = run(evaluate, tuning_time=0.2, storage=storage)
    assert note in again.notes
    assert again.baseline == result.baseline


def test_an_evaluation_that_ends_is_read_to_its_end_however_long_it_takes():
    result = run(
        lambda _: (float(sample % 3 > 0) for sample in itertools.islice(Endless(wait=0.01)(_), 50)), tuning_time=5
    )
    assert not any(each.startswith("evaluation: ") for each in result.notes)


def test_what_yields_for_ever_without_a_limit_of_time_is_an_error(monkeypatch):
    monkeypatch.setattr(verdict, "MOST_SAMPLES", 100)
    evaluate = Endless(wait=0)
    with pytest.raises(EvaluationError, match=r"more than 100 scores for the fp32 model\. It must end"):
        run(evaluate)
    assert evaluate.closed == 1


def test_scores_that_are_too_many_to_be_kept_are_an_error(monkeypatch):
    monkeypatch.setattr(history, "LARGEST_BASELINE", 10)
    with pytest.raises(EvaluationError, match="still yielding scores of the fp32 model when tuning_time was over"):
        run(Endless(), tuning_time=0.05)


def test_an_interruption_closes_the_evaluation_of_fp32():
    closed = []

    def evaluate(_):
        try:
            yield 1.0
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(evaluate)
    assert closed == [True]


def chance_notes(result):
    return [each for each in result.notes if "by chance" in each]


def test_a_pass_on_one_number_after_several_candidates_says_how_far_it_can_be_chance():
    result = run(Scores(1.0, 0.9, 0.8, 1.0))
    assert result.met
    (note,) = chance_notes(result)
    assert note.startswith("1 of 3 candidates met the goal, each judged by one number")
    assert "up to 88%" in note  # 1 - (1 / 2) ** 3
    assert note in str(result)


@pytest.mark.parametrize(
    "scores",
    [
        (1.0, 1.0),  # one candidate
        (1.0, 0.9, 0.8, 0.7, 0.6),  # no pass
        (np.ones(200), np.zeros(200), np.ones(200)),  # a test of samples
    ],
)
def test_nothing_is_said_where_chance_has_one_try_or_is_counted_with(scores):
    assert chance_notes(run(Scores(*scores), max_trials=len(scores) - 1)) == []
