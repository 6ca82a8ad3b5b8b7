"""Metrics over labelled batches: a name, a function, or an object that is updated batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import array_api_compat
import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.data import describe, is_array
from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError, did_you_mean
from inc_autotune.core.evaluation.goal import as_number, is_no_number

ALLOWED_METRICS = (
    "'accuracy', a function (predictions, labels) -> number, or an object with reset, update(predictions, labels) and "
    "compute or result"
)

IGNORED_LABEL = -100


class Metric(Protocol):
    """A metric that is updated batch by batch."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, predictions: Any, labels: Any) -> None:
        """Take one batch into account."""

    def compute(self) -> Any:
        """The metric of all batches since the last reset."""


class Accuracy:
    """Share of labels that are the class with the largest score; labels of -100 are not counted.

    Scores are [..., classes] or [batch, classes, ...]; labels are integers of the same shape without `classes`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._correct = self._count = 0

    def update(self, predictions: Any, labels: Any) -> None:
        labels = array_api_compat.array_namespace(predictions).asarray(labels)
        for axis in (-1, 1):
            if predictions.ndim > 1 and _without(predictions.shape, axis) == tuple(labels.shape):
                counted = labels != IGNORED_LABEL
                self._correct += int(((predictions.argmax(axis) == labels) & counted).sum())
                self._count += int(counted.sum())
                return
        raise DataError(
            f"eval_metric='accuracy': predictions {describe(predictions)} do not fit labels {describe(labels)}. "
            "Predictions must be scores [batch, ..., classes] or [batch, classes, ...] for labels [batch, ...]."
        )

    def compute(self) -> float:
        return self._correct / self._count if self._count else math.nan


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    del sizes[axis]
    return tuple(sizes)


class _Collected:
    """A plain function as a metric: called with the outputs and labels of all batches, concatenated."""

    def __init__(self, function: Callable[[Any, Any], Any], as_array: Callable[[Any], Any]) -> None:
        self._function = function
        self._as_array = as_array
        self.reset()

    def reset(self) -> None:
        self._predictions: list[Any] = []
        self._labels: list[Any] = []

    def update(self, predictions: Any, labels: Any) -> None:
        self._predictions.append(predictions)
        self._labels.append(labels)

    def compute(self) -> Any:
        predictions = _concatenate(self._predictions, "outputs", self._as_array)
        return self._function(predictions, _concatenate(self._labels, "labels", self._as_array))


class _WithResult:
    """A metric object with `result` in place of `compute`."""

    def __init__(self, metric: Any) -> None:
        self.reset = metric.reset
        self.update = metric.update
        self.compute = metric.result


def make_metric(eval_metric: Any, as_array: Callable[[Any], Any] = np.asarray) -> Metric:
    """The user's metric in one form.

    Args:
        eval_metric: one of `ALLOWED_METRICS`.
        as_array: makes an array of the framework from a list of numbers.

    Raises:
        ArgumentError: `eval_metric` is none of `ALLOWED_METRICS`.
    """
    if isinstance(eval_metric, str):
        if eval_metric == "accuracy":
            return Accuracy()
        hint = did_you_mean(eval_metric, ["accuracy"])
        raise ArgumentError(f"eval_metric={eval_metric!r}: unknown name. Allowed: {ALLOWED_METRICS}.{hint}")
    if isinstance(eval_metric, type):
        raise ArgumentError(f"eval_metric={shown(eval_metric)} is a class. Give an instance: {eval_metric.__name__}().")
    if all(callable(getattr(eval_metric, name, None)) for name in ("reset", "update")):
        if callable(getattr(eval_metric, "compute", None)):
            return eval_metric  # type: ignore[no-any-return]
        if callable(getattr(eval_metric, "result", None)):
            return _WithResult(eval_metric)
    if callable(eval_metric):
        return _Collected(eval_metric, as_array)
    raise ArgumentError(f"eval_metric={shown(eval_metric)} cannot be called. Allowed: {ALLOWED_METRICS}.")


def metric_value(value: Any, eval_metric: Any) -> float:
    """The value that a metric returned, as a float.

    Raises:
        EvaluationError: the value is no single number.
    """
    name = eval_metric if isinstance(eval_metric, str) else getattr(eval_metric, "__name__", type(eval_metric).__name__)
    if is_no_number(value) or isinstance(value, (str, bytes)) or value is None:
        raise EvaluationError(f"eval_metric {name} returned {shown(value)}. It must return a number.")
    try:
        return as_number(value)
    except Exception as error:
        raise EvaluationError(
            f"eval_metric {name} returned {describe(value)}. It must return a single number."
        ) from error


def _concatenate(parts: list[Any], what: str, as_array: Callable[[Any], Any]) -> Any:
    first = parts[0]
    if all(is_array(part) for part in parts):
        namespace = array_api_compat.array_namespace(first)
        try:
            return namespace.concat([part if part.ndim else part[None] for part in parts])
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"eval_dataloader: the {what} of different batches cannot be concatenated ({error}). Pad them to "
                "one shape, or give an eval_metric with reset, update and compute."
            ) from error
    if isinstance(first, (bool, int, float)):
        return as_array(parts)
    if isinstance(first, Mapping):
        return {key: _concatenate([part[key] for part in parts], what, as_array) for key in first}
    if isinstance(first, tuple):
        return tuple(_concatenate(list(column), what, as_array) for column in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return parts
