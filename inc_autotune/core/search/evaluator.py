"""Calls of the user's evaluation, each of which is counted and timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from inc_autotune.core.errors import AutotuneError, EvaluationError, NonFiniteScoreError
from inc_autotune.core.evaluation import Goal, Judgement, Scores, judge, read_scores
from inc_autotune.core.progress import Phases

Evaluate = Callable[[Any], Any]
Read = TypeVar("Read")


class Evaluations:
    """Evaluates the fp32 model and candidates of one tuning run.

    Args:
        evaluate: the user's evaluation, from deployable model to score; None: nothing is evaluated.
        phases: times the calls.
    """

    def __init__(self, evaluate: Evaluate | None, phases: Phases) -> None:
        self.count = 0
        """Calls so far."""
        self._evaluate, self._phases = evaluate, phases

    def fp32(self, model: Any) -> Scores:
        """The fp32 model's scores; of an evaluation that yields no more than the user's time allows, see `read_scores`.

        Raises:
            EvaluationError: the evaluation raised, or gave no finite number.
        """
        try:
            is_late = self._phases.stopwatch()
            return self._read(model, lambda value: read_scores(value, "the fp32 model", is_late))
        except NonFiniteScoreError as error:
            raise EvaluationError(str(error)) from error
        except AutotuneError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"eval_func raised {type(error).__name__} on the fp32 model: {error}. The model was passed as it "
                "is: eval_func(model) must run by itself."
            ) from error

    def candidate(self, model: Any, baseline: Scores, goal: Goal, what: str) -> Judgement:
        """Whether a candidate, called `what` in messages, meets the goal.

        Raises:
            NonFiniteScoreError: its score is not finite.
            EvaluationError: the evaluation gave no number.
            Exception: whatever the evaluation raised.
        """
        return self._read(model, lambda value: judge(value, baseline, goal, what))

    def _read(self, model: Any, read: Callable[[Any], Read]) -> Read:
        assert self._evaluate is not None
        with self._phases.phase("evaluation"):
            self.count += 1
            return read(self._evaluate(model))
