"""MLflow: a run for the tuning, with a run inside for each trial."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inc_autotune.core.optional import require
from inc_autotune.core.result import TuningResult
from inc_autotune.core.search.study import Trial
from inc_autotune.core.shared_switch import SharedSwitch
from inc_autotune.tracking.callback import TrackerCallback
from inc_autotune.tracking.records import result_metrics, trial_metrics, trial_words

LONGEST_WORDS = 5000
"""Characters that MLflow keeps of a tag, at least."""

_PRINTS_NOTHING = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


@contextmanager
def _without_prints() -> Iterator[None]:
    """Let MLflow not print the address of each run that ends."""
    before = os.environ.get(_PRINTS_NOTHING)
    os.environ[_PRINTS_NOTHING] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PRINTS_NOTHING]
        else:
            os.environ[_PRINTS_NOTHING] = before


_QUIET = SharedSwitch(_without_prints)


class MLflowCallback(TrackerCallback):
    """An `on_trial` that writes each trial to an MLflow tracking server, or its database.

        with MLflowCallback("sqlite:///mlflow.db", experiment="resnet") as callback:
            tuned = torch_ext.autotune(model, loader, eval_func, on_trial=callback)
            callback.log_result(tuned.tuning_result)

    The run of the whole has the scores and gains of its trials as curves, a step each; the runs inside have them by
    themselves, so that MLflow compares them. No run of the program that is active is touched.

    Args:
        tracking_uri: of the server, or of a database. None: what MLflow is set to.
        experiment: its name; made where it does not exist.
        run_name: of the run of the whole. None: MLflow makes one up.
        tags: of the run of the whole.

    Raises:
        MissingDependencyError: mlflow, the extra `mlflow`, is not installed.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "inc_autotune",
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        require("mlflow", extra="mlflow")
        from mlflow.tracking import MlflowClient

        self.client: Any = MlflowClient(tracking_uri)
        found = self.client.get_experiment_by_name(experiment)
        self.experiment_id: str = self.client.create_experiment(experiment) if found is None else found.experiment_id
        self.run_id: str = self.client.create_run(
            self.experiment_id, run_name=run_name, tags={"inc_autotune": "tuning", **(tags or {})}
        ).info.run_id

    def __call__(self, trial: Trial) -> None:
        """Write a trial that has ended."""
        metrics = trial_metrics(trial)
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name, value, step=trial.number + 1)
        tags = {"mlflow.parentRunId": self.run_id, "inc_autotune": "trial"}
        words = {name: text[:LONGEST_WORDS] for name, text in trial_words(trial).items()}
        run = self.client.create_run(self.experiment_id, run_name=f"trial {trial.number + 1}", tags={**tags, **words})
        for name, value in metrics.items():
            self.client.log_metric(run.info.run_id, name, value)
        self._end(run.info.run_id, failed=trial.state == "failed")

    def log_result(self, result: TuningResult) -> None:
        """Write what the tuning came to: scores, speed, sizes as metrics, the printed table and the recipe as files."""
        for name, value in result_metrics(result).items():
            self.client.log_metric(self.run_id, name, value)
        self.client.set_tag(self.run_id, "objective", result.objective)
        if result.goal is not None:
            self.client.set_tag(self.run_id, "goal", result.goal)
        self.client.log_text(self.run_id, str(result), "result.txt")
        if result.recipe is not None:
            self.client.log_text(self.run_id, result.recipe.to_yaml(), "recipe.yaml")

    def close(self, *, failed: bool = False) -> None:
        """End the run of the whole; `with` does so."""
        self._end(self.run_id, failed=failed)

    def _end(self, run_id: str, *, failed: bool) -> None:
        with _QUIET:
            self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
