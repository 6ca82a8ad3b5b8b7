"""Trials in a tracking store of MLflow, in a database on disk."""

from __future__ import annotations

import pytest

from inc_autotune.core.errors import EvaluationError
from inc_autotune.testing import Scores, random_model
from inc_autotune.tracking import MLflowCallback
from tests.core.tuner.test_tuning import run

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A new database costs seconds, which go to its tables."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def artifacts_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def runs_of(client, name):
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id])
    whole = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    inside = [each for each in found if "mlflow.parentRunId" in each.data.tags]
    return whole, sorted(inside, key=lambda each: int(each.info.run_name.split()[-1]))


def test_trials_and_result_are_found_again(store, tmp_path):
    with MLflowCallback(store, "first", "a run", {"model": "numpy"}) as callback:
        result = run(Scores(1.0, 0.5, float("nan"), 1.0), model=random_model(8), on_trial=callback).result
        callback.log_result(result)
    client = mlflow.tracking.MlflowClient(store)
    (whole,), trials = runs_of(client, "first")
    assert whole.info.run_name == "a run"
    assert whole.info.status == "FINISHED"
    assert whole.data.tags["model"] == "numpy"
    assert whole.data.metrics["fp32_score"] == 1.0
    assert whole.data.metrics["goal_met"] == 1.0
    assert [(each.step, each.value) for each in client.get_metric_history(whole.info.run_id, "score")] == [
        (1, 0.5),
        (3, 1.0),
    ]
    assert client.get_metric_history(whole.info.run_id, "units_fp32")[-1].value == len(result.fallbacks)
    assert [each.info.status for each in trials] == ["FINISHED", "FAILED", "FINISHED"]
    assert {each.data.tags["mlflow.parentRunId"] for each in trials} == {whole.info.run_id}
    assert trials[0].data.tags["tried"] == result.trials[0].label
    assert "nan" in trials[1].data.tags["error"]
    names = {each.path for each in client.list_artifacts(whole.info.run_id)}
    assert names == {"result.txt", "recipe.yaml"}
    assert mlflow.active_run() is None


def test_an_error_inside_is_a_failed_run(store):
    with pytest.raises(EvaluationError), MLflowCallback(store, "second") as callback:
        run(Scores(1.0, RuntimeError("disk full")), on_trial=callback)
    (whole,), trials = runs_of(mlflow.tracking.MlflowClient(store), "second")
    assert (whole.info.status, trials) == ("FAILED", [])
