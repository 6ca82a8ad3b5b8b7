"""TensorBoard: scores and gains of the trials as curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inc_autotune.core.arguments import check_path
from inc_autotune.core.optional import require
from inc_autotune.core.result import TuningResult
from inc_autotune.core.search.study import Trial
from inc_autotune.tracking.callback import TrackerCallback
from inc_autotune.tracking.records import result_metrics, trial_metrics, trial_words


class TensorBoardCallback(TrackerCallback):
    """An `on_trial` that writes each trial as a step, for `tensorboard --logdir`.

        with TensorBoardCallback("runs/resnet") as callback:
            tuned = ort_ext.autotune("model.onnx", loader, eval_func, on_trial=callback)
            callback.log_result(tuned.tuning_result)

    Args:
        log_dir: the folder of the run; made where it does not exist.

    Raises:
        ArgumentError: it is no path.
        MissingDependencyError: tensorboardX, the extra `tensorboard`, is not installed.
    """

    def __init__(self, log_dir: str | Path) -> None:
        folder = check_path(log_dir, "log_dir", allowed="the name of a folder")
        require("tensorboardX", extra="tensorboard")
        from tensorboardX import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def __call__(self, trial: Trial) -> None:
        """Write a trial that has ended."""
        step = trial.number + 1
        for name, value in trial_metrics(trial).items():
            self.writer.add_scalar(f"trial/{name}", value, step)
        words = "  \n".join(f"**{name}**: {value}" for name, value in trial_words(trial).items())
        self.writer.add_text("trial", words, step)
        self.writer.flush()

    def log_result(self, result: TuningResult) -> None:
        """Write what the tuning came to."""
        for name, value in result_metrics(result).items():
            self.writer.add_scalar(f"result/{name}", value, len(result.trials))
        table = "\n".join(f"    {line}" for line in str(result).splitlines())
        self.writer.add_text("result", table, len(result.trials))
        self.writer.flush()

    def close(self, *, failed: bool = False) -> None:
        """End the file; `with` does so."""
        self.writer.close()
