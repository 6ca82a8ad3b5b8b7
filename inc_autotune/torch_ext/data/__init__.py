"""Items of the user's loader as calls of the model; metrics over labelled ones; the user's functions.

Imports model and target.
"""

from inc_autotune.torch_ext.data.batches import (
    Batch,
    batch_axis,
    calibration_batches,
    example_batch,
    output_tensors,
    run,
)
from inc_autotune.torch_ext.data.calibration_function import CalibrationFunction
from inc_autotune.torch_ext.data.digest import add_batch, add_model
from inc_autotune.torch_ext.data.evaluation import isolated
from inc_autotune.torch_ext.data.items import iterable_loader
from inc_autotune.torch_ext.data.metric import evaluation_function
from inc_autotune.torch_ext.data.nested import map_tensors
from inc_autotune.torch_ext.data.padding import comparable_outputs, real_outputs, real_positions

__all__ = [
    "Batch",
    "CalibrationFunction",
    "add_batch",
    "add_model",
    "batch_axis",
    "calibration_batches",
    "comparable_outputs",
    "evaluation_function",
    "example_batch",
    "isolated",
    "iterable_loader",
    "map_tensors",
    "output_tensors",
    "real_outputs",
    "real_positions",
    "run",
]
