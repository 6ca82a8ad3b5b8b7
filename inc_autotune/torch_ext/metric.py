"""An evaluation function made of a labelled data loader and a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.argument_checks import shown
from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError, did_you_mean
from inc_autotune.torch_ext.data import labelled_batches, output_tensors, run
from inc_autotune.torch_ext.items import describe, is_one_shot, iterable_loader, map_tensors
from inc_autotune.torch_ext.readings import Reading

ALLOWED_METRICS = (
    "'accuracy', a function (predictions, labels) -> number, or an object with reset, update(predictions, labels) and "
    "compute or result"
)


class Accuracy:
    """Share of labels that the largest score names; labels of -100 are not counted.

    Scores are [..., classes] or [batch, classes, ...], labels integers of the shape that is left without `classes`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._correct = self._count = 0

    def update(self, predictions: Tensor, labels: Any) -> None:
        labels = torch.as_tensor(labels)
        for axis in (-1, 1):
            if predictions.ndim > 1 and _without(predictions.shape, axis) == tuple(labels.shape):
                counted = labels != -100
                self._correct += int(((predictions.argmax(axis) == labels) & counted).sum())
                self._count += int(counted.sum())
                return
        raise DataError(
            f"eval_metric='accuracy': predictions {describe(predictions)} do not fit labels {describe(labels)}. "
            "Predictions must be scores [batch, ..., classes] or [batch, classes, ...] for labels [batch, ...]."
        )

    def compute(self) -> float:
        return self._correct / self._count if self._count else math.nan


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    del sizes[axis]
    return tuple(sizes)


class _Collected:
    """Gives a plain function the outputs and labels of all batches, concatenated."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self.reset()

    def reset(self) -> None:
        self._predictions: list[Any] = []
        self._labels: list[Any] = []

    def update(self, predictions: Any, labels: Any) -> None:
        self._predictions.append(predictions)
        self._labels.append(labels)

    def compute(self) -> Any:
        return self._function(_concatenate(self._predictions, "outputs"), _concatenate(self._labels, "labels"))


def check_evaluation_arguments(
    eval_func: Any, eval_dataloader: Any, eval_metric: Any
) -> Callable[[nn.Module], Any] | None:
    """The user's evaluation: `eval_func`, or one made of `eval_dataloader` and `eval_metric`; None when none is given.

    Raises:
        ArgumentError: `eval_func` cannot be called, both ways are given, or one of the pair is missing or unusable.
    """
    if eval_func is not None:
        given = [
            name
            for name, value in (("eval_dataloader", eval_dataloader), ("eval_metric", eval_metric))
            if value is not None
        ]
        if given:
            raise ArgumentError(
                f"eval_func and {' and '.join(given)} are both given. Give either eval_func, or eval_dataloader "
                "together with eval_metric."
            )
        if not callable(eval_func):
            raise ArgumentError(
                f"eval_func={shown(eval_func)} cannot be called. Give a function (model) -> number. The order is "
                "autotune(model, calib_dataloader, eval_func)."
            )
        return eval_func  # type: ignore[no-any-return]
    if eval_dataloader is None and eval_metric is None:
        return None
    if eval_metric is None:
        raise ArgumentError(f"eval_dataloader is given without eval_metric. Give eval_metric too: {ALLOWED_METRICS}.")
    if eval_dataloader is None:
        raise ArgumentError(
            "eval_metric is given without eval_dataloader. Give eval_dataloader too: it yields (inputs, label), or "
            "dicts with a label."
        )
    return evaluation_function(eval_dataloader, eval_metric)


def evaluation_function(eval_dataloader: Any, eval_metric: Any) -> Callable[[nn.Module], float]:
    """A function that runs a model over labelled data and returns the metric as a float.

    Of an output with several tensors the metric gets `logits` where there are some, else the first one that is not the
    loss. Predictions and labels reach it on the CPU.

    Args:
        eval_dataloader: yields (inputs, label), (input, ..., label), or dicts with a label entry; re-iterable, since it
            is read once for every candidate.
        eval_metric: `"accuracy"`; a function of all predictions and all labels, concatenated; or an object fed batch
            by batch: `reset()`, `update(predictions, labels)`, and `compute()` (torchmetrics) or `result()`.

    Raises:
        ArgumentError: the loader can be read only once, or the metric is none of these.
    """
    iterable_loader(eval_dataloader, "eval_dataloader")
    if is_one_shot(eval_dataloader):
        raise ArgumentError(
            f"eval_dataloader is a {type(eval_dataloader).__name__}, which can be read only once, but every candidate "
            "is evaluated on it. Give a DataLoader, a list, or an object whose __iter__ starts again."
        )
    metric = _metric(eval_metric)
    compute = metric.compute if hasattr(metric, "compute") else metric.result
    readings: list[Reading] = []

    def evaluate(model: nn.Module) -> float:
        metric.reset()
        known = readings[0] if readings else None
        for batch, label, reading in labelled_batches(eval_dataloader, model, known):
            readings[:] = [reading]
            metric.update(_on_cpu(_predictions(run(model, batch))), _on_cpu(label))
        return _number(compute(), eval_metric)

    return evaluate


def _metric(eval_metric: Any) -> Any:
    if isinstance(eval_metric, str):
        if eval_metric == "accuracy":
            return Accuracy()
        hint = did_you_mean(eval_metric, ["accuracy"])
        raise ArgumentError(f"eval_metric={eval_metric!r}: unknown name. Allowed: {ALLOWED_METRICS}.{hint}")
    if isinstance(eval_metric, type):
        raise ArgumentError(f"eval_metric={eval_metric!r} is a class. Give an instance: {eval_metric.__name__}().")
    streaming = all(callable(getattr(eval_metric, name, None)) for name in ("reset", "update"))
    if streaming and any(callable(getattr(eval_metric, name, None)) for name in ("compute", "result")):
        return eval_metric
    if callable(eval_metric):
        return _Collected(eval_metric)
    raise ArgumentError(f"eval_metric={eval_metric!r} cannot be called. Allowed: {ALLOWED_METRICS}.")


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


def _concatenate(parts: list[Any], what: str) -> Any:
    first = parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        try:
            return torch.cat([part if part.ndim else part[None] for part in parts])
        except RuntimeError as error:
            raise DataError(
                f"eval_dataloader: the {what} of different batches cannot be concatenated ({error}). Pad them to "
                "one shape, or give an eval_metric with reset, update and compute."
            ) from error
    if isinstance(first, (bool, int, float)):
        return torch.tensor(parts)
    if isinstance(first, Mapping):
        return {key: _concatenate([part[key] for part in parts], what) for key in first}
    if isinstance(first, tuple):
        return tuple(_concatenate(list(column), what) for column in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return parts


def _number(value: Any, eval_metric: Any) -> float:
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise EvaluationError(f"eval_metric {_name(eval_metric)} returned {value!r}. It must return a number.")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"eval_metric {_name(eval_metric)} returned {describe(value)}. It must return a single number."
        ) from error


def _name(metric: Any) -> str:
    return str(metric) if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))
