"""What runtimes of static graphs share: named inputs, calibration, plans, weights, and what their adaptors have alike.

Imports the core; the extensions for ONNX Runtime and TensorFlow import it, the one for PyTorch does not.
"""

from inc_autotune.graphs.adaptor import GraphAdaptor
from inc_autotune.graphs.calibration import Values, WatchedTensor, batch_error, calibrate
from inc_autotune.graphs.comparison import ComparedTensors, GraphPair, compared_operator
from inc_autotune.graphs.corrections import corrected_bias
from inc_autotune.graphs.digest import add_arrays, content
from inc_autotune.graphs.feed import Feed, InputDescription, to_numpy
from inc_autotune.graphs.feeds import labelled, loader_items, possible_reading, unlabelled
from inc_autotune.graphs.metric import evaluation_function
from inc_autotune.graphs.moments import MomentRows, Patches, Rows, has_moments, moment_name, moment_names, summed_moment
from inc_autotune.graphs.names import reserved
from inc_autotune.graphs.plan import OperatorCalibration
from inc_autotune.graphs.reading import reading_model
from inc_autotune.graphs.recipe_entries import STEPS, WEIGHT_FRAMEWORK, rounded_as_known, without_steps
from inc_autotune.graphs.rounding import Steps, StepsCache, moved, weight_steps
from inc_autotune.graphs.samples import SampleAxis
from inc_autotune.graphs.smoothing import shared_weights, smoothed_alike, smoothing_scales
from inc_autotune.graphs.weights import Kept, QuantizedWeight, WeightCache, quantize_weight

__all__ = [
    "STEPS",
    "WEIGHT_FRAMEWORK",
    "ComparedTensors",
    "Feed",
    "GraphAdaptor",
    "GraphPair",
    "InputDescription",
    "Kept",
    "MomentRows",
    "OperatorCalibration",
    "Patches",
    "QuantizedWeight",
    "Rows",
    "SampleAxis",
    "Steps",
    "StepsCache",
    "Values",
    "WatchedTensor",
    "WeightCache",
    "add_arrays",
    "batch_error",
    "calibrate",
    "compared_operator",
    "content",
    "corrected_bias",
    "evaluation_function",
    "has_moments",
    "labelled",
    "loader_items",
    "moment_name",
    "moment_names",
    "moved",
    "possible_reading",
    "quantize_weight",
    "reading_model",
    "reserved",
    "rounded_as_known",
    "shared_weights",
    "smoothed_alike",
    "smoothing_scales",
    "summed_moment",
    "to_numpy",
    "unlabelled",
    "weight_steps",
    "without_steps",
]
