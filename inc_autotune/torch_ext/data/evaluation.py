"""The user's evaluation, and what the evaluation may do to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inc_autotune.core.errors import EvaluationError
from inc_autotune.torch_ext.model import restored

SAMPLED_VALUES = 16
"""Of each parameter, compared before and after an evaluation. Training, scaling and loading change nearly all."""


def isolated(evaluate: Callable[[nn.Module], Any] | None, model: nn.Module) -> Callable[[nn.Module], Any] | None:
    """The same evaluation, after which the user's model is as it was before, and no model may have another dtype.

    The evaluation gets the user's model and not a copy, so that it can tell the model from candidates.

    Args:
        evaluate: None stays None.
        model: the user's.

    Returns:
        A function that raises EvaluationError if `evaluate` changes the dtype of the model's parameters: the score is
        then not that of the model `convert` returns, and the next evaluation may fail in the middle. The same if it
        writes into the parameters of the user's model, which candidates share.
    """
    if evaluate is None:
        return None

    def wrapped(candidate: nn.Module) -> Any:
        with _kept(candidate, model):
            scores = evaluate(candidate)
        return _steps(scores, candidate, model) if isinstance(scores, Iterator) else scores

    return wrapped


def _steps(scores: Iterator[Any], candidate: nn.Module, users: nn.Module) -> Iterator[Any]:
    with _kept(candidate, users):
        try:
            yield from scores
        finally:
            close = getattr(scores, "close", None)
            if close is not None:
                close()


@contextmanager
def _kept(model: nn.Module, users: nn.Module) -> Iterator[None]:
    """Check dtypes and weights at the end; also if the block raises, since either may be the cause."""
    with restored(model) if model is users else nullcontext():
        before, values = _dtypes(model), _some_values(users)
        try:
            yield
        except (Exception, GeneratorExit) as error:
            _check_dtypes(before, model, error)
            _check_values(values, error)
            raise
        _check_dtypes(before, model, None)
        _check_values(values, None)


def _some_values(model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Name, memory and some values of each parameter; also of one that the block replaces, which is put back later."""
    found = []
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        is_plain = type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_meta
        if is_plain and tensor.is_floating_point() and tensor.numel():
            found.append((name, tensor, _sampled(tensor)))
    return found


def _sampled(tensor: Tensor) -> Tensor:
    """Values at equal distances, the first and the last among them; no copy of the whole is made."""
    flat = np.linspace(0, tensor.numel() - 1, min(tensor.numel(), SAMPLED_VALUES)).astype(np.int64)
    places = np.unravel_index(flat, tuple(tensor.shape)) if tensor.ndim else ()
    values = tensor[tuple(torch.from_numpy(each).to(tensor.device) for each in places)] if places else tensor
    return values.to(torch.float32, copy=True)


def _check_values(before: list[tuple[str, Tensor, Tensor]], error: BaseException | None) -> None:
    for name, tensor, values in before:
        now = _sampled(tensor)
        if not bool(((now == values) | (now.isnan() & values.isnan())).all()):
            raise EvaluationError(
                f"eval_func wrote into {name!r} of the model it was given. Candidates share the memory of your model, "
                "so it has other weights now, too: load them again. Let it change copy.deepcopy(model)."
            ) from error


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
