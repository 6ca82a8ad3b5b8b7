"""Evaluations without gradients."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


def without_gradients(
    evaluate: Callable[[nn.Module], Any] | None, opened: ExitStack
) -> Callable[[nn.Module], Any] | None:
    """An evaluation has no use for a graph, and a user who forgot `no_grad` none for its memory.

    Args:
        opened: closes the iterators of scores that nobody has read to their end.
    """
    if evaluate is None:
        return None

    def wrapped(model: nn.Module) -> Any:
        with torch.no_grad():
            scores = evaluate(model)
        if not isinstance(scores, Iterator):
            return scores
        steps = _steps_without_gradients(scores)
        opened.callback(steps.close)
        return steps

    return wrapped


def _steps_without_gradients(scores: Iterator[Any]) -> Generator[Any, None, None]:
    """The same iterator; each of its steps, but not what its reader does in between, runs without gradients."""
    try:
        while True:
            with torch.no_grad():
                try:
                    step = next(scores)
                except StopIteration:
                    return
            yield step
    finally:
        # Left early, a generator inside a `no_grad` block brings back the state it found when it entered that: here.
        with torch.no_grad():
            close = getattr(scores, "close", None)
            if close is not None:
                close()
