"""Metrics over labelled batches: a name, a function, or an object that is updated batch by batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import array_api_compat
import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.data import describe, is_array
from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError, did_you_mean
from inc_autotune.core.evaluation.detection import CocoMeanAveragePrecision, MeanAveragePrecision
from inc_autotune.core.evaluation.goal import as_number, is_no_number
from inc_autotune.core.evaluation.named_metrics import (
    F1,
    Accuracy,
    Auc,
    Bleu,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
    TopK,
)
from inc_autotune.core.vocabulary import listing


class Metric(Protocol):
    """A metric that is updated batch by batch."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, predictions: Any, labels: Any) -> None:
        """Take one batch into account."""

    def compute(self) -> Any:
        """The metric of all batches since the last reset."""


NAMED_METRICS: Mapping[str, Callable[..., Metric]] = {
    "accuracy": Accuracy,
    "topk": TopK,
    "f1": F1,
    "auc": Auc,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "rmse": RootMeanSquaredError,
    "bleu": Bleu,
    "map": MeanAveragePrecision,
    "cocomap": CocoMeanAveragePrecision,
    "vocmap": MeanAveragePrecision,
}
"""By name in lower case; upper case is understood too, as Intel Neural Compressor writes `MSE` and `mAP`."""

_FOREIGN_OPTIONS = {
    "compare_label": " Predictions are compared with labels; how far a model is from fp32, without labels, is what "
    "`compare` shows.",
    "anno_path": " Labels are numbers of classes.",
}

_FOREIGN_NAMES = {"roc": "auc", "cocomapv2": "cocomap", "top1": "topk", "squadf1": "f1"}

ALLOWED_METRICS = (
    f"{', '.join(map(repr, NAMED_METRICS))}, one of these with its options such as {{'topk': {{'k': 5}}}}, a function "
    "(predictions, labels) -> number, or an object with reset, update(predictions, labels) and compute or result"
)


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
        return _named_metric(eval_metric, {})
    if isinstance(eval_metric, Mapping):
        return _named_metric(*_name_and_options(eval_metric))
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


def is_better_when_larger(eval_metric: Any) -> bool | None:
    """Whether a larger value is better, of a metric that is named; None of others, which only the user knows."""
    if isinstance(eval_metric, Mapping) and len(eval_metric) == 1:
        eval_metric = next(iter(eval_metric))
    if not isinstance(eval_metric, str):
        return None
    known: bool | None = getattr(NAMED_METRICS.get(eval_metric.lower()), "higher_is_better", None)
    return known


def metric_predictions(metric: Metric, outputs: Any, chosen: Callable[[Any], Any]) -> Any:
    """What a metric is given: all that a model returns, if it `takes_all_outputs`, else what `chosen` takes of it."""
    return outputs if getattr(metric, "takes_all_outputs", False) else chosen(outputs)


def _name_and_options(given: Mapping[Any, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Of `{"topk": {"k": 5}}`, the name and the options.

    Raises:
        ArgumentError: there is not one name, or its options are no dict.
    """
    if len(given) != 1:
        raise ArgumentError(
            f"eval_metric={shown(given)}: has {len(given)} names. Give one with its options: {{'topk': {{'k': 5}}}}. "
            "Of several metrics make one number in eval_func."
        )
    ((name, options),) = given.items()
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise ArgumentError(
            f"eval_metric={shown(given)}: options are {shown(options)}. Allowed: a dict of options, such as {{'k': 5}}."
        )
    return name, options


def _named_metric(name: Any, options: Mapping[str, Any]) -> Metric:
    found = NAMED_METRICS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        other = _FOREIGN_NAMES.get(name.lower()) if isinstance(name, str) else None
        hint = f" Did you mean {other!r}?" if other else did_you_mean(name, NAMED_METRICS)
        raise ArgumentError(f"eval_metric={shown(name)}: unknown name. Allowed: {ALLOWED_METRICS}.{hint}")
    known = list(inspect.signature(found).parameters)
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"eval_metric: {name}: unknown option {shown(option)}. Allowed: {listing(known) if known else 'none'}."
                f"{_FOREIGN_OPTIONS.get(option) or did_you_mean(option, known)}"
            )
    return found(**options)


def metric_value(value: Any, eval_metric: Any) -> float:
    """The value that a metric returned, as a float.

    Raises:
        EvaluationError: the value is no single number.
    """
    if isinstance(eval_metric, Mapping):
        eval_metric = next(iter(eval_metric))
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
