"""An evaluation function made of a labelled data loader and a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.data import Reading
from inc_autotune.core.evaluation import make_metric, metric_predictions, metric_value
from inc_autotune.torch_ext.data.batch import run
from inc_autotune.torch_ext.data.batches import labelled_batches
from inc_autotune.torch_ext.data.items import iterable_loader
from inc_autotune.torch_ext.data.nested import map_tensors
from inc_autotune.torch_ext.data.outputs import output_tensors


def evaluation_function(eval_dataloader: Any, eval_metric: Any) -> Callable[[nn.Module], float]:
    """A function that runs a model over labelled data and returns the metric as a float.

    If an output has several tensors, the metric gets `logits`, if the output has such a field, else the first tensor
    that is not the loss. Predictions and labels are moved to the CPU before.

    Args:
        eval_dataloader: yields (inputs, label), (input, ..., label), or dicts with a label entry; re-iterable, since it
            is read once for every candidate.
        eval_metric: a name, as `"accuracy"`, or `{name: options}`;
            a function of all predictions and all labels, concatenated; or an object fed batch
            by batch: `reset()`, `update(predictions, labels)`, and `compute()` (torchmetrics) or `result()`.

    Raises:
        ArgumentError: the loader cannot be iterated over, or the metric has none of these forms.
    """
    iterable_loader(eval_dataloader, "eval_dataloader")
    metric = make_metric(eval_metric, torch.tensor)
    readings: list[Reading] = []

    def evaluate(model: nn.Module) -> float:
        metric.reset()
        known = readings[0] if readings else None
        for batch, label, reading in labelled_batches(eval_dataloader, model, known):
            readings[:] = [reading]
            outputs = metric_predictions(metric, run(model, batch), _predictions)
            metric.update(_on_cpu(outputs), _on_cpu(label))
        return metric_value(metric.compute(), eval_metric)

    return evaluate


def _predictions(output: Any) -> Any:
    """The tensor of a model's output that a metric is about."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Mapping):
        output = {key: value for key, value in output.items() if key != "loss"}
    tensors = output_tensors(output)
    if isinstance(output, Tensor) or not tensors:
        return output
    return tensors[0]


def _on_cpu(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.detach().cpu())
