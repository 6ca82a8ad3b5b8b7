"""Evaluations for tests: scores that the test chooses, and closeness to the fp32 model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array


class Scores:
    """An evaluation that returns given scores without running the model; the last one is repeated.

    Args:
        scores: one per call. An exception among them is raised.

    Attributes:
        models: the models that the evaluation was called with.
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
        """Number of calls so far."""
        return len(self.models)


class Closeness:
    """An evaluation: 1 minus the relative error of a model's outputs against the outputs of the fp32 model.

    Args:
        outputs: returns the outputs of a model on inputs that the test chooses.
        reference: outputs of the fp32 model on the same inputs.

    Attributes:
        calls: number of calls so far.
    """

    def __init__(self, outputs: Callable[[Any], Array], reference: Array) -> None:
        self.outputs, self.reference, self.calls = outputs, reference, 0

    def __call__(self, model: Any) -> float:
        self.calls += 1
        error = np.linalg.norm(self.outputs(model) - self.reference) / np.linalg.norm(self.reference)
        return 1.0 - float(error)
