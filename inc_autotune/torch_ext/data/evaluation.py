"""The user's evaluation, and what it may do to the models it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from inc_autotune.core.errors import EvaluationError
from inc_autotune.torch_ext.model.untouched import restored


def isolated(evaluate: Callable[[nn.Module], Any] | None, model: nn.Module) -> Callable[[nn.Module], Any] | None:
    """The same evaluation; the user's model is afterwards as it was, and no model changes its dtype.

    It is given that model itself, so that it can tell it from candidates, which are copies.

    Args:
        evaluate: None stays None.
        model: the user's.

    Returns:
        Raises EvaluationError where `evaluate` changes the dtype of its model's parameters: it scores a model that
        nobody will get, and the next one may fail in the middle.
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
    """Check dtypes at the end, first of all where the block raises, since that may well be why."""
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
