"""Trials of a tuning run in the trackers of experiments: callbacks for `on_trial`.

Imports the core alone; what a tracker needs is imported where it is used.
"""

from inc_autotune.tracking.mlflow import MLflowCallback
from inc_autotune.tracking.tensorboard import TensorBoardCallback

__all__ = ["MLflowCallback", "TensorBoardCallback"]
