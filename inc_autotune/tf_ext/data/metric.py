"""An evaluation function made of labelled data and a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inc_autotune.core.arrays import Array
from inc_autotune.core.evaluation import make_metric
from inc_autotune.graphs import Feed
from inc_autotune.graphs import evaluation_function as metric_of_feeds
from inc_autotune.tf_ext.data.feeds import labelled_feeds
from inc_autotune.tf_ext.graph import SignatureGraph
from inc_autotune.tf_ext.model import SignatureModel


class _KerasMetric:
    """A metric of Keras under the names that the core uses."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self.reset = metric.reset_state

    def update(self, predictions: Any, labels: Any) -> None:
        self._metric.update_state(labels, predictions)  # the other way round than elsewhere

    def compute(self) -> Any:
        return self._metric.result()


def evaluation_function(
    eval_dataset: Any, eval_metric: Any, signature: SignatureGraph
) -> Callable[[SignatureModel], float]:
    """A function that runs a model over labelled data and returns the metric as a float.

    Of several outputs the metric gets the one named `logits`, else the first of floating point that is not the loss.

    Args:
        eval_dataset: yields (inputs, label), (input, ..., label), or dicts with a label entry; re-iterable, since it
            is read once for every candidate.
        eval_metric: a metric of Keras; a name, as `"accuracy"`, or `{name: options}`;
            a function of all predictions and all labels, concatenated; or an
            object with `reset()`, `update(predictions, labels)`, and `compute()` or `result()`. Predictions and labels
            reach it as NumPy arrays.
        signature: which signature of the model is run.

    Raises:
        ArgumentError: the data is of no form that can be read, or the metric is none of these.
    """
    keras_like = all(callable(getattr(eval_metric, name, None)) for name in ("update_state", "result", "reset_state"))
    if keras_like and not isinstance(eval_metric, type):
        metric: Any = _KerasMetric(eval_metric)
    else:
        metric = make_metric(eval_metric)
    labelled_feeds(eval_dataset, signature)

    def run(model: SignatureModel, feed: Feed) -> dict[str, Array]:
        outputs = model.signatures[signature.name](**feed.inputs)
        return {name: value.numpy() for name, value in outputs.items()}

    return metric_of_feeds(run, lambda: labelled_feeds(eval_dataset, signature), metric, eval_metric)
