"""Items of the user's loader as calls of the model; metrics over labelled ones; the user's functions.

Imports model and target.
"""

from inc_autotune.torch_ext.data.batch import Batch, call, main_input, run
from inc_autotune.torch_ext.data.batches import batch_axis, calibration_batches, example_batch, model_device
from inc_autotune.torch_ext.data.calibration_function import CalibrationFunction
from inc_autotune.torch_ext.data.digest import add_batch, add_model
from inc_autotune.torch_ext.data.evaluation import isolated
from inc_autotune.torch_ext.data.gradients import without_gradients
from inc_autotune.torch_ext.data.items import iterable_loader
from inc_autotune.torch_ext.data.lineage import Lineage
from inc_autotune.torch_ext.data.metric import evaluation_function
from inc_autotune.torch_ext.data.nested import every_tensor, map_tensors
from inc_autotune.torch_ext.data.outputs import compared_tensors, output_tensors, outputs_of, shows_errors
from inc_autotune.torch_ext.data.padding import comparable_outputs, real_outputs, real_positions
from inc_autotune.torch_ext.data.training_function import with_gradients

__all__ = [
    "Batch",
    "CalibrationFunction",
    "Lineage",
    "add_batch",
    "add_model",
    "batch_axis",
    "calibration_batches",
    "call",
    "comparable_outputs",
    "compared_tensors",
    "evaluation_function",
    "every_tensor",
    "example_batch",
    "isolated",
    "iterable_loader",
    "main_input",
    "map_tensors",
    "model_device",
    "output_tensors",
    "outputs_of",
    "real_outputs",
    "real_positions",
    "run",
    "shows_errors",
    "with_gradients",
    "without_gradients",
]
