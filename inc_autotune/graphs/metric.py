"""An evaluation function made of labelled feeds and a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import is_array
from inc_autotune.core.evaluation import Metric, metric_predictions, metric_value
from inc_autotune.graphs.feed import Feed, to_numpy

Model = TypeVar("Model")


def evaluation_function(
    run: Callable[[Model, Feed], Mapping[str, Array]],
    labelled: Callable[[], Iterable[tuple[Feed, Any]]],
    metric: Metric,
    named: Any,
) -> Callable[[Model], float]:
    """A function that runs a model over labelled data and returns the metric as a float.

    Args:
        run: the model's outputs by name.
        labelled: feeds with their labels, read once for every model.
        metric: gets the predictions of each feed, see `predictions`, and its labels, both as NumPy arrays.
        named: the metric as the user gave it, for messages.
    """

    def evaluate(model: Model) -> float:
        metric.reset()
        for feed, label in labelled():
            metric.update(metric_predictions(metric, run(model, feed), predictions), as_numpy(label))
        return metric_value(metric.compute(), named)

    return evaluate


def predictions(outputs: Mapping[str, Array]) -> Array:
    """The output that a metric is about: the one named `logits`, else the first floating point one but the loss."""
    if "logits" in outputs:
        return outputs["logits"]
    floating = [value for name, value in outputs.items() if name != "loss" and np.issubdtype(value.dtype, np.floating)]
    return floating[0] if floating else next(iter(outputs.values()))


def as_numpy(value: Any) -> Any:
    """The same nesting with a NumPy array for every tensor."""
    if is_array(value):
        return to_numpy(value)
    if isinstance(value, Mapping):
        return {key: as_numpy(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(as_numpy(item) for item in value)
    return value
