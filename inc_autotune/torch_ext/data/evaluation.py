"""The user's evaluation, and what the evaluation may do to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from inc_autotune.core.errors import EvaluationError
from inc_autotune.torch_ext.model import restored


def isolated(evaluate: Callable[[nn.Module], Any] | None, model: nn.Module) -> Callable[[nn.Module], Any] | None:
    """The same evaluation, after which the user's model is as it was before, and no model may have another dtype.

    The evaluation gets the user's model and not a copy, so that it can tell the model from candidates.

    Args:
        evaluate: None stays None.
        model: the user's.

    Returns:
        A function that raises EvaluationError if `evaluate` changes the dtype of the model's parameters: the score is
        then not that of the model `convert` returns, and the next evaluation may fail in the middle.
    """
    if evaluate is None:
        return None

    def wrapped(candidate: nn.Module) -> Any:
        with _kept(candidate, candidate is model):
            scores = evaluate(candidate)
        return _steps(scores, candidate, candidate is model) if isinstance(scores, Iterator) else scores

    return wrapped


def _steps(scores: Iterator[Any], candidate: nn.Module, is_users: bool) -> Iterator[Any]:
    with _kept(candidate, is_users):
        try:
            yield from scores
        finally:
            close = getattr(scores, "close", None)
            if close is not None:
                close()


@contextmanager
def _kept(model: nn.Module, is_users: bool) -> Iterator[None]:
    """Check dtypes at the end; also if the block raises, since another dtype may be the cause."""
    with restored(model) if is_users else nullcontext():
        before = _dtypes(model)
        try:
            yield
        except (Exception, GeneratorExit) as error:
            _check_dtypes(before, model, error)
            raise
        _check_dtypes(before, model, None)


def _dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def _check_dtypes(before: dict[str, torch.dtype], model: nn.Module, error: BaseException | None) -> None:
    changed = {name: dtype for name, dtype in _dtypes(model).items() if dtype != before.get(name, dtype)}
    if changed:
        name, dtype = next(iter(changed.items()))
        raise EvaluationError(
            f"eval_func changed the model it was given: {name or 'its weight'} is {dtype}, it was {before[name]}. What "
            "it scores is then not the model that convert() returns. Let it change copy.deepcopy(model)."
        ) from error
