"""When a candidate is good enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from inc_autotune.core.arguments import AccuracyCriterion, shown
from inc_autotune.core.errors import EvaluationError, NonFiniteScoreError


@dataclass(frozen=True)
class Goal:
    """The score a candidate must reach.

    Args:
        baseline: the fp32 model's score.
        criterion: the tolerance around it and its direction.
    """

    baseline: float
    criterion: AccuracyCriterion

    @property
    def tolerance(self) -> float:
        """How far from the baseline a score may lie, in the score's own unit.

        A relative tolerance is relative to the baseline's magnitude, so that negative baselines (log-likelihoods) work;
        for a baseline of zero it is zero.
        """
        if self.criterion.absolute is not None:
            return self.criterion.absolute
        return abs(self.baseline) * float(self.criterion.relative or 0.0)

    @property
    def target(self) -> float:
        return self.baseline - self.tolerance if self.criterion.higher_is_better else self.baseline + self.tolerance

    def met(self, score: float) -> bool:
        """Whether `score` is at least as good as the target."""
        # A score that equals the target up to float rounding (0.99 of 1.0 in fp32) meets it.
        slack = 1e-9 * max(abs(self.target), 1e-30)
        return self.loss(score) <= self.tolerance + slack

    def loss(self, score: float) -> float:
        """How much worse than the baseline a score is, in the score's unit; negative for a better score."""
        return self.baseline - score if self.criterion.higher_is_better else score - self.baseline

    def better(self, score: float, than: float) -> bool:
        """Whether `score` is strictly better than another."""
        return self.loss(score) < self.loss(than)

    def doubt(self) -> str | None:
        """What is strange about the goal, for a person to look at; None where nothing is."""
        if self.baseline == 0 and self.criterion.absolute is None and self.criterion.higher_is_better:
            return "the fp32 model scores 0, as a model does that is always wrong. Check the evaluation, and its labels"
        absolute = self.criterion.absolute
        if absolute is not None and self.criterion.higher_is_better and 0 < self.baseline <= absolute:
            return (
                f"accuracy_criterion={{'absolute': {absolute:g}}} tolerates the loss of the whole score "
                f"{self.baseline:g}. One percent of it is {{'relative': 0.01}}"
            )
        return None

    def describe(self) -> str:
        sign = ">=" if self.criterion.higher_is_better else "<="
        kind = "absolute" if self.criterion.absolute is not None else "relative"
        amount = self.criterion.absolute if self.criterion.absolute is not None else self.criterion.relative
        return f"{sign} {self.target:.6g} ({kind} {amount:g} of {self.baseline:.6g})"


def is_no_number(value: Any) -> bool:
    """Whether a value is none though `float` takes it, or would give numbers that it does not mean.

    Answers, durations and dates are no scores; what a mask hides, and the bytes of a buffer, are none either.
    """
    if isinstance(value, np.generic) and value.dtype.kind in "bmM":
        return True
    return isinstance(value, (bool, complex, memoryview, np.ma.MaskedArray))


def as_number(value: Any) -> float:
    """A number, or an array or tensor with exactly one, as a float.

    Raises:
        TypeError: it is none in the sense of `is_no_number`.
        Exception: whatever an object raises that is none either.
    """
    number = value.item() if hasattr(value, "item") and not is_no_number(value) else value
    if is_no_number(number):
        raise TypeError(f"a {type(number).__name__} is no number")
    return float(number)


def checked_score(value: Any, what: str) -> float:
    """The value that the user's evaluation returned, as a float.

    Args:
        value: an int, float, numpy scalar, or an array or tensor with exactly one element.
        what: which model was evaluated, for the message.

    Raises:
        EvaluationError: the value is None, text, a bool, masked or a collection. A list is not read as per-sample
            scores, since frameworks return several metrics as a list (Keras: loss and accuracy).
        NonFiniteScoreError: the value is NaN or infinite.
    """
    remedy = "Return one finite number, the score of the model you were given."
    if value is None:
        raise EvaluationError(
            f"eval_func returned None for {what}. {remedy} "
            "(The third positional argument is eval_func; in torch_ext, a calibration function goes to calib_func=.)"
        )
    if is_no_number(value) or isinstance(value, (str, bytes, list, tuple, dict, set)):
        advice = " Per-sample scores: wrap them in np.array(...)." if isinstance(value, (list, tuple)) else ""
        raise EvaluationError(
            f"eval_func returned {shown(value)} ({type(value).__name__}) for {what}. {remedy}{advice}"
        )
    try:
        score = as_number(value)
    except Exception as error:  # sparse tensors, those without values, and objects of the user raise anything
        raise EvaluationError(
            f"eval_func returned a {type(value).__name__} that is not one number for {what}: {error}. {remedy}"
        ) from error
    if not math.isfinite(score):
        raise NonFiniteScoreError(f"eval_func returned {score} for {what}. {remedy}", f"the score is {score}")
    return score
