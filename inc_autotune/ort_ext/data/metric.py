"""An evaluation function made of a labelled data loader and a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import check_loader
from inc_autotune.core.evaluation import make_metric
from inc_autotune.graphs import Feed, InputDescription
from inc_autotune.graphs import evaluation_function as metric_of_feeds
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
        eval_metric: a name, as `"accuracy"`, or `{name: options}`;
            a function of all predictions and all labels, concatenated; or an object fed batch
            by batch: `reset()`, `update(predictions, labels)`, and `compute()` or `result()`.
        inputs: what the model declares.

    Raises:
        ArgumentError: the loader cannot be iterated over, or the metric is none of these.
    """
    check_loader(eval_dataloader, "eval_dataloader", ALLOWED_LOADERS)
    metric = make_metric(eval_metric)

    def run(session: onnxruntime.InferenceSession, feed: Feed) -> dict[str, Array]:
        names = (output.name for output in session.get_outputs())
        return dict(zip(names, session.run(None, feed.inputs), strict=True))

    return metric_of_feeds(run, lambda: labelled_feeds(eval_dataloader, inputs), metric, eval_metric)
