"""Calls of the user's evaluation. Every call is counted, and its scores are recorded before anything else happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from inc_autotune.core.arguments.autotune import AutotuneArguments
from inc_autotune.core.errors import AutotuneError, EvaluationError, NonFiniteScoreError
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.evaluation.verdict import Scores, judge, read_scores
from inc_autotune.core.progress import Phases
from inc_autotune.core.search.candidates import Candidates
from inc_autotune.core.search.strategy import Proposal
from inc_autotune.core.search.study.history import History
from inc_autotune.core.search.study.trial import Trial

logger = logging.getLogger(__name__)

Evaluate = Callable[[Any], Any]
Read = TypeVar("Read")


class Evaluations:
    """Evaluates the fp32 model and candidates of one tuning run.

    Args:
        evaluate: the user's evaluation, from deployable model to score; None: nothing is evaluated.
    """

    def __init__(
        self,
        evaluate: Evaluate | None,
        history: History,
        candidates: Candidates,
        phases: Phases,
        arguments: AutotuneArguments,
    ) -> None:
        self.count = 0
        """Calls so far."""
        self._evaluate, self._history, self._candidates = evaluate, history, candidates
        self._phases, self._arguments = phases, arguments

    def fp32(self, model: Any) -> Scores:
        """The fp32 model's scores.

        Raises:
            EvaluationError: the evaluation raised, or gave no finite number.
        """
        try:
            return self._read(model, lambda value: read_scores(value, "the fp32 model"))
        except NonFiniteScoreError as error:
            raise EvaluationError(str(error)) from error
        except AutotuneError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"eval_func raised {type(error).__name__} on the fp32 model: {error}. The model was passed as it "
                "is: eval_func(model) must run by itself."
            ) from error

    def candidate(self, proposal: Proposal, baseline: Scores, goal: Goal) -> tuple[Trial, Any] | None:
        """Build and evaluate one candidate.

        Returns:
            The trial and its model; None if another process has begun the same candidate, if the candidate could not be
            built, or if its score is not finite.

        Raises:
            EvaluationError: the evaluation raised, or gave no number. The trial is recorded, and tried again by a
                resumed run.
        """
        reserved = self._history.begin(proposal.assignment, proposal.label)
        if reserved is None:
            return None
        trial = Trial(reserved.number, proposal.assignment, proposal.label, "failed")
        what = f"trial {trial.number + 1} ({trial.label})"
        started = time.monotonic()

        def fail(error: str, interrupted: bool = False) -> None:
            failed = replace(trial, seconds=time.monotonic() - started, error=error, interrupted=interrupted)
            self._history.finish(reserved, failed)

        try:
            model = self._candidates.build(proposal.assignment)
        except Exception as error:
            # A configuration that cannot be built is a failed trial; the search goes on.
            logger.warning("%s could not be built", what, exc_info=True)
            fail(f"{type(error).__name__}: {error}")
            return None
        try:
            judgement = self._read(model, lambda value: judge(value, baseline, goal, what))
        except NonFiniteScoreError as error:
            # A model that overflows is a failed trial; the search goes on.
            logger.warning("%s: %s", what, error.found)
            fail(error.found)
            return None
        except BaseException as error:
            fail(f"{type(error).__name__}: {error}", interrupted=True)
            if isinstance(error, EvaluationError) or not isinstance(error, Exception):
                raise
            raise EvaluationError(f"eval_func raised {type(error).__name__} in {what}: {error}.") from error
        ended = replace(
            trial,
            state="complete",
            seconds=time.monotonic() - started,
            score=judgement.score,
            met=judgement.met,
            verdict=judgement.verdict,
            interval=judgement.interval,
            samples=judgement.count,
            stopped_early=judgement.stopped_early,
        )
        reserved = self._history.record(reserved, ended)
        try:
            # Gains decide between models that met the goal; without tuning time the first such model is returned.
            if ended.met and self._arguments.tuning_time > 0:
                gain = self._candidates.gain(ended.assignment, model, self._arguments.objective)
                ended = replace(ended, gain=gain)
        finally:
            ended = self._history.finish(reserved, ended)
        reached = "met" if ended.met else "not met"
        logger.info("trial %d: %s: score %g, goal %s", ended.number + 1, ended.label, judgement.score, reached)
        return ended, model

    def _read(self, model: Any, read: Callable[[Any], Read]) -> Read:
        assert self._evaluate is not None
        with self._phases.phase("evaluation"):
            self.count += 1
            return read(self._evaluate(model))
