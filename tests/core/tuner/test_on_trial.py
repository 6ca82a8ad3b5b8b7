"""`on_trial`: who is told of which trial, and what happens where that raises."""

from __future__ import annotations

import pytest

from inc_autotune.core.errors import EvaluationError
from inc_autotune.testing import Scores, random_model
from tests.core.tuner.test_tuning import run


def test_each_trial_is_told_when_it_has_ended():
    seen = []
    result = run(Scores(1.0, 0.5, float("nan"), 0.7, 1.0), model=random_model(8), on_trial=seen.append).result
    assert tuple(seen) == result.trials
    assert [(trial.number, trial.state, trial.score) for trial in seen] == [
        (0, "complete", 0.5),
        (1, "failed", None),
        (2, "complete", 0.7),
        (3, "complete", 1.0),
    ]


def test_one_that_raises_ends_the_run_and_loses_no_trial(tmp_path):
    def stop(trial):
        if trial.number == 1:
            raise OSError("tracking server is gone")

    storage = f"sqlite:///{tmp_path}/run.db"
    with pytest.raises(EvaluationError, match=r"on_trial raised OSError after trial 2 \(.*tracking server") as caught:
        run(Scores(1.0, 0.5, 0.6, 0.7, 1.0), model=random_model(8), on_trial=stop, storage=storage)
    partial = caught.value.partial_result
    assert (len(partial.trials), partial.score) == (2, 0.6)
    seen = []
    resumed = run(Scores(0.7, 1.0), model=random_model(8), on_trial=seen.append, storage=storage).result
    assert resumed.met
    assert [trial.number for trial in seen] == [2, 3], "those from before the call were told before"
