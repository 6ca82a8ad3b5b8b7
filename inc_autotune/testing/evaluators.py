"""Evaluations for tests: scores that the test chooses, and closeness to the fp32 model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array


class Scores:
    """An evaluation that returns what it was told to, without running the model; the last value is repeated.

    Args:
        scores: one for each call. An exception among them is raised.

    Attributes:
        models: what it was called with.
    """

    def __init__(self, *scores: Any) -> None:
        self.scores = list(scores)
        self.models: list[Any] = []

    def __call__(self, model: Any) -> Any:
        self.models.append(model)
        score = self.scores[min(len(self.models), len(self.scores)) - 1]
        if isinstance(score, BaseException):
            raise score
        return score

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.models)


class Closeness:
    """An evaluation: 1 minus the relative error of a model's outputs to those of the fp32 model.

    Args:
        outputs: what a model returns on inputs of the test's own.
        reference: what the fp32 model returns on them.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, outputs: Callable[[Any], Array], reference: Array) -> None:
        self.outputs, self.reference, self.calls = outputs, reference, 0

    def __call__(self, model: Any) -> float:
        self.calls += 1
        error = np.linalg.norm(self.outputs(model) - self.reference) / np.linalg.norm(self.reference)
        return 1.0 - float(error)
