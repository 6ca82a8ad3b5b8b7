"""The two ways to evaluate: a function, or a labelled loader with a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inc_autotune.core.arguments import AutotuneArguments, shown
from inc_autotune.core.data import is_one_shot
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.evaluation.metric import ALLOWED_METRICS, is_better_when_larger


def with_direction_of(eval_metric: Any, arguments: AutotuneArguments) -> AutotuneArguments:
    """The arguments with the direction of a metric that has a name, where the user gave none: errors shall be small."""
    larger = is_better_when_larger(eval_metric)
    criterion = arguments.accuracy_criterion
    if larger is None or "higher_is_better" in criterion.model_fields_set:
        return arguments
    directed = criterion.model_copy(update={"higher_is_better": larger})
    return arguments.model_copy(update={"accuracy_criterion": directed})


def check_evaluation_arguments(
    eval_func: Any,
    eval_dataloader: Any,
    eval_metric: Any,
    combine: Callable[[Any, Any], Callable[[Any], Any]],
    *,
    loader: str = "dataloader",
    higher_is_better: bool = True,
) -> Callable[[Any], Any] | None:
    """The user's evaluation: `eval_func`, or one made of `eval_dataloader` and `eval_metric`; None when none is given.

    Args:
        eval_func: takes a model and returns its score.
        eval_dataloader: yields inputs with labels; re-iterable, since it is read once for every candidate.
        eval_metric: one of `ALLOWED_METRICS`.
        combine: makes an evaluation function from the loader and the metric.
        loader: the framework's word for loaders in names of arguments: "dataloader" in `eval_dataloader`.
        higher_is_better: what the accuracy criterion says of the score.

    Raises:
        ArgumentError: `eval_func` cannot be called, both ways are given, or one of the pair is missing or unusable.
    """
    argument = f"eval_{loader}"
    if eval_func is not None:
        given = [
            name for name, value in ((argument, eval_dataloader), ("eval_metric", eval_metric)) if value is not None
        ]
        if given:
            raise ArgumentError(
                f"eval_func and {' and '.join(given)} are both given. Give either eval_func, or {argument} "
                "together with eval_metric."
            )
        if not callable(eval_func):
            raise ArgumentError(
                f"eval_func={shown(eval_func)} cannot be called. Give a function (model) -> number. The order is "
                f"autotune(model, calib_{loader}, eval_func)."
            )
        return eval_func  # type: ignore[no-any-return]
    if eval_dataloader is None and eval_metric is None:
        return None
    if eval_metric is None:
        raise ArgumentError(f"{argument} is given without eval_metric. Give eval_metric too: {ALLOWED_METRICS}.")
    if eval_dataloader is None:
        raise ArgumentError(
            f"eval_metric is given without {argument}. Give {argument} too: it yields (inputs, label), or "
            "dicts with a label."
        )
    if is_one_shot(eval_dataloader):
        raise ArgumentError(
            f"{argument} is a {type(eval_dataloader).__name__}, which can be read only once, but every candidate "
            "is evaluated on it. Give a DataLoader, a list, or an object whose __iter__ starts again."
        )
    larger = is_better_when_larger(eval_metric)
    if larger is not None and larger is not higher_is_better:
        raise ArgumentError(
            f"eval_metric={shown(eval_metric)} is better when {'larger' if larger else 'smaller'}, but "
            f"accuracy_criterion says higher_is_better={higher_is_better}. Give accuracy_criterion={{..., "
            f"'higher_is_better': {larger}}}."
        )
    return combine(eval_dataloader, eval_metric)
