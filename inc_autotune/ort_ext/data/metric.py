"""An evaluation function made of a labelled data loader and a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.core.data.loaders import check_loader, is_array
from inc_autotune.core.evaluation.metric import make_metric, metric_value
from inc_autotune.graphs.feed import InputDescription, to_numpy
from inc_autotune.ort_ext.data.feeds import ALLOWED_LOADERS, labelled_feeds


def evaluation_function(
    eval_dataloader: Any, eval_metric: Any, inputs: Sequence[InputDescription]
) -> Callable[[onnxruntime.InferenceSession], float]:
    """A function that runs a session over labelled data and returns the metric as a float.

    Of several outputs the metric gets the one named `logits`, else the first of floating point that is not the loss.
    Predictions and labels reach it as NumPy arrays.

    Args:
        eval_dataloader: yields (inputs, label), (input, ..., label), or dicts with a label entry; re-iterable, since it
            is read once for every candidate.
        eval_metric: `"accuracy"`; a function of all predictions and all labels, concatenated; or an object fed batch
            by batch: `reset()`, `update(predictions, labels)`, and `compute()` or `result()`.
        inputs: what the model declares.

    Raises:
        ArgumentError: the loader cannot be iterated over, or the metric is none of these.
    """
    check_loader(eval_dataloader, "eval_dataloader", ALLOWED_LOADERS)
    metric = make_metric(eval_metric)

    def evaluate(session: onnxruntime.InferenceSession) -> float:
        metric.reset()
        names = [output.name for output in session.get_outputs()]
        for feed, label in labelled_feeds(eval_dataloader, inputs):
            outputs = dict(zip(names, session.run(None, feed.inputs), strict=True))
            metric.update(_predictions(outputs), _as_numpy(label))
        return metric_value(metric.compute(), eval_metric)

    return evaluate


def _predictions(outputs: Mapping[str, Array]) -> Array:
    """The output that a metric is about."""
    if "logits" in outputs:
        return outputs["logits"]
    floating = [value for name, value in outputs.items() if name != "loss" and np.issubdtype(value.dtype, np.floating)]
    return floating[0] if floating else next(iter(outputs.values()))


def _as_numpy(value: Any) -> Any:
    """The same nesting with a NumPy array for every tensor."""
    if is_array(value):
        return to_numpy(value)
    if isinstance(value, Mapping):
        return {key: _as_numpy(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_as_numpy(item) for item in value)
    return value
