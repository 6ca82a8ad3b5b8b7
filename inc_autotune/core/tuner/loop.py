"""The loop over trials: what is tried, what happens to one trial, and when the search ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inc_autotune.core.analysis import variants_of
from inc_autotune.core.errors import EvaluationError, NonFiniteScoreError
from inc_autotune.core.evaluation import Goal, Scores
from inc_autotune.core.result import choose_best
from inc_autotune.core.search.strategy import (
    STRATEGIES,
    Proposal,
    SearchView,
    Strategy,
    untried_variant,
    with_training,
)
from inc_autotune.core.search.study import POLL_SECONDS, Trial
from inc_autotune.core.tuner.preparation import Preparation
from inc_autotune.core.tuner.run import Run

logger = logging.getLogger(__name__)


@dataclass
class Search:
    """What all trials of a run share.

    Args:
        run: the call of `tune`.
        known: what was found before the first trial.
        baseline: the fp32 model's scores, with which those of candidates are compared.
        goal: what a score must reach.
        kept: number and model of the best trial so far, if this process evaluated it.
    """

    run: Run
    known: Preparation
    baseline: Scores
    goal: Goal
    kept: tuple[int, Any] | None = None

    @property
    def best(self) -> Trial | None:
        """The best trial so far, whichever process evaluated it."""
        return choose_best(self.goal, self.run.history.trials())

    def model_of(self, trial: Trial) -> Any:
        """The trial's model; built again where another process, or a run before this one, evaluated it."""
        if self.kept is not None and self.kept[0] == trial.number:
            return self.kept[1]
        return self.known.candidates.build(trial.assignment)


def search_trials(search: Search) -> None:
    """Evaluate what the strategy proposes until it has nothing left, or the user's limits are reached.

    Raises:
        EvaluationError: the evaluation raised, or gave no number.
    """
    strategy = STRATEGIES[search.run.arguments.strategy]
    while True:
        trials = search.run.history.trials()
        proposal = None
        if not _is_over(search.run, trials):
            proposal = _propose(search, strategy, trials) or _variant(search, trials)
        if proposal is not None:
            trial = run_trial(search, proposal)
            if trial is not None:
                _report(search.run, trial)
        elif any(trial.state == "running" for trial in trials) and not _is_decided(search, trials):
            time.sleep(POLL_SECONDS)
        else:
            return


def run_trial(search: Search, proposal: Proposal) -> Trial | None:
    """One trial: it is begun, built, evaluated, recorded and measured, and its model kept while it is the best.

    Nothing happens where another process has begun the same. A candidate that cannot be built or run, or whose score is
    not finite, is a failed trial; operators that make a candidate fail stay in fp32 from then on.

    Returns:
        The trial as it is stored; None where another process has it.

    Raises:
        EvaluationError: the evaluation raised, or gave no number. The trial is recorded, and tried again by a resumed
            run.
    """
    run, candidates = search.run, search.known.candidates
    reserved = run.history.begin(proposal.assignment, proposal.label)
    if reserved is None:
        return None
    trial = Trial(reserved.number, proposal.assignment, proposal.label, "failed")
    what = f"trial {trial.number + 1} ({trial.label})"
    started = time.monotonic()

    def fail(error: str, interrupted: bool = False) -> Trial:
        failed = replace(trial, seconds=time.monotonic() - started, error=error, interrupted=interrupted)
        return run.history.finish(reserved, failed)

    if trial.assignment.trained:
        trial = _train(search, trial, fail)
        if trial.error is not None:
            return trial
        started = time.monotonic()
    try:
        model = candidates.build(trial.assignment)
    except Exception as error:
        # One configuration that cannot be built is a result of the search, not its end.
        logger.warning("%s could not be built", what, exc_info=True)
        failed = fail(f"{type(error).__name__}: {error}")
        search.known = search.known.without_failing(run, trial.assignment, f"{type(error).__name__}: {error}")
        return failed
    try:
        judgement = search.known.evaluations.candidate(model, search.baseline, search.goal, what)
    except NonFiniteScoreError as error:
        # A model that overflows has no use, but the next one may.
        logger.warning("%s: %s", what, error.found)
        return fail(error.found)
    except BaseException as error:
        # What fails on the samples of the calibration, too, is the candidate and not the evaluation, unless that is
        # known to have gone wrong by itself: it may have changed the candidate.
        is_unknown = isinstance(error, Exception) and not isinstance(error, EvaluationError)
        failure = candidates.run_failure(model) if is_unknown else None
        if failure is not None:
            logger.warning("%s could not be run", what, exc_info=True)
            failed = fail(failure)
            search.known = search.known.without_failing(run, trial.assignment, failure)
            return failed
        fail(f"{type(error).__name__}: {error}", interrupted=True)
        if isinstance(error, EvaluationError) or not isinstance(error, Exception):
            raise
        raise EvaluationError(f"eval_func raised {type(error).__name__} in {what}: {error}.") from error
    trial = trial.judged(judgement, seconds=time.monotonic() - started)
    reserved = run.history.record(reserved, trial)
    try:
        # Only where there is time to look for a better one does it matter how good each is.
        if trial.met and run.arguments.tuning_time > 0:
            trial = replace(trial, gain=candidates.gain(trial.assignment, model, run.arguments.objective))
    finally:
        trial = run.history.finish(reserved, trial)
    reached = "met" if trial.met else "not met"
    logger.info("trial %d: %s: score %g, goal %s", trial.number + 1, trial.label, judgement.score, reached)
    best = search.best
    if best is not None and best.number == trial.number:
        search.kept = (trial.number, model)
    return trial


def _report(run: Run, trial: Trial) -> None:
    """Hand a trial that has ended, and is recorded, to the user's `on_trial`.

    Raises:
        EvaluationError: that raised.
    """
    if run.arguments.on_trial is None:
        return
    try:
        run.arguments.on_trial(trial)
    except Exception as error:
        raise EvaluationError(
            f"on_trial raised {type(error).__name__} after trial {trial.number + 1} ({trial.label}), which is recorded:"
            f" {error}."
        ) from error


def _propose(search: Search, strategy: Strategy, trials: Sequence[Trial]) -> Proposal | None:
    """What the strategy wants to try next, trained where that is due."""
    view, arguments = _view(search, trials), search.run.arguments
    if arguments.train_func is None:
        return strategy(view)
    return with_training(strategy, view, search.run.trainings.mark, at_once=arguments.approach == "qat")


def _train(search: Search, trial: Trial, fail: Callable[..., Trial]) -> Trial:
    """The trial once its model has been trained; with an error where that came to nothing, which is recorded.

    Raises:
        TrainingError: `train_func` raised, or left another model. The trial is recorded, and tried again by a resumed
            run.
    """
    run, known = search.run, search.known
    start = run.trainings.start_of(search.goal, run.history.trials())
    try:
        outcome = run.trainings.run(known.candidates.space, trial.assignment, trial.label, start)
    except BaseException as error:
        fail(f"{type(error).__name__}: {error}", interrupted=True)
        raise
    if outcome.problem is not None:
        logger.warning("trial %d (%s): %s", trial.number + 1, trial.label, outcome.problem)
        return fail(outcome.problem)
    return replace(trial, training_seconds=outcome.seconds, trained_from=outcome.start)


def _view(search: Search, trials: Sequence[Trial]) -> SearchView:
    """What the strategy looks at."""
    known, arguments = search.known, search.run.arguments
    space = known.choices.space
    return SearchView(
        space=space,
        # Others are of a time before an operator was found to fail.
        trials=[trial for trial in trials if set(trial.assignment.by_unit) == set(space.by_name)],
        goal=search.goal,
        plans=known.plans,
        sampling_sizes=search.run.sampling_sizes,
        rank=known.ranking.rank,
        curvature=known.ranking.curvature,
        fallback=known.ranking.fallback,
        thorough=arguments.tuning_time > 0,
        seed=arguments.seed,
        workers=search.run.history.workers,
    )


def _variant(search: Search, trials: Sequence[Trial]) -> Proposal | None:
    """What to try with the time that the strategy leaves."""
    if search.run.arguments.tuning_time == 0:
        return None
    return untried_variant(search.best, trials, variants_of(search.run.adaptor, search.run.model))


def _is_over(run: Run, trials: Sequence[Trial]) -> bool:
    """Whether no further evaluation should begin."""
    begun = [trial for trial in trials if not trial.interrupted]
    if len(begun) >= run.arguments.max_trials:
        return True
    if run.arguments.tuning_time == 0:
        return any(trial.met for trial in trials)
    return run.phases.expired() and any(trial.state != "running" for trial in begun)


def _is_decided(search: Search, trials: Sequence[Trial]) -> bool:
    """Whether evaluations that still run in other processes cannot change the outcome, or are too late."""
    best = choose_best(search.goal, trials)
    if best is None:
        return False
    if search.run.arguments.tuning_time > 0:
        return search.run.phases.expired()
    running = [trial for trial in trials if trial.state == "running"]
    return best.met and all(trial.assignment.relaxations > best.assignment.relaxations for trial in running)
