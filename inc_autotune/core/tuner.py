"""The tuning loop. Nothing else knows its order."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import inc_autotune
from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.smoothing_plan import SmoothingPlan, plan_smoothing, planned_steps
from inc_autotune.core.analysis.unit_speed import slow_units
from inc_autotune.core.arguments.autotune import AutotuneArguments
from inc_autotune.core.errors import EvaluationError, QuantizationError, TuningInterrupted
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.evaluation.verdict import Scores
from inc_autotune.core.op_config import FP32
from inc_autotune.core.progress import Phases
from inc_autotune.core.result.build import build_result, choose_best
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.candidates import Candidates
from inc_autotune.core.search.evaluator import Evaluate, Evaluations
from inc_autotune.core.search.options import (
    allowed_options,
    check_rule_types,
    is_asked_for,
    offered_options,
    reasons_for_fp32,
)
from inc_autotune.core.search.ranking import Ranking
from inc_autotune.core.search.strategy import STRATEGIES, Proposal, SearchView, check_strategy
from inc_autotune.core.search.study.code_fingerprint import callable_fingerprint
from inc_autotune.core.search.study.history import History
from inc_autotune.core.search.study.storage import STORAGE_FORMAT, StudyKey, check_storage
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.search.study.workers import POLL_SECONDS
from inc_autotune.core.space.units import Assignment, TuningSpace, build_space

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """A tuned model and how it came about."""

    model: Any
    result: TuningResult


def tune(
    adaptor: Adaptor, model: Any, dataloader: Any, evaluate: Evaluate | None, arguments: AutotuneArguments
) -> Tuned:
    """Tune a model for one framework.

    Args:
        adaptor: the framework's adaptor, fresh for this run.
        model: the fp32 model; never changed.
        dataloader: calibration data in a form the adaptor reads; read once.
        evaluate: the user's evaluation, from deployable model to number; None: quantize without a claim.
        arguments: validated arguments.

    Returns:
        The tuned model in the adaptor's user-facing form, and the result.

    Raises:
        AutotuneError: bad input, found as early as it can be.
        EvaluationError: the evaluation raised or returned no number; `.partial_result` keeps what was found.
        TuningInterrupted: a KeyboardInterrupt during the search, with `.partial_result`, too.
    """
    # What the user asked for and cannot have is known before the model runs.
    check_storage(arguments.storage)
    check_strategy(arguments.strategy, adaptor)
    check_rule_types(adaptor, model, arguments)
    build_space(allowed_options(offered_options(adaptor, model), arguments), skipped=adaptor.skipped(model))
    phases = Phases(show=arguments.progress, limit=arguments.tuning_time)
    with phases.phase("calibration"):
        samples = adaptor.calibrate(model, dataloader, arguments.sampling_sizes, arguments.seed)
    run = _Run(adaptor, model, dataloader, evaluate, arguments, phases, samples)
    try:
        return run.complete()
    finally:
        run.history.close()


class _Run:
    """The state of one call of `tune`: what each phase found, for the phases after it."""

    def __init__(
        self,
        adaptor: Adaptor,
        model: Any,
        dataloader: Any,
        evaluate: Evaluate | None,
        arguments: AutotuneArguments,
        phases: Phases,
        samples: int,
    ) -> None:
        self.adaptor, self.model, self.dataloader = adaptor, model, dataloader
        self.evaluate, self.arguments, self.phases = evaluate, arguments, phases
        # A loader with fewer samples than asked for makes several sampling sizes the same.
        sizes = [min(size, samples) if samples else size for size in arguments.sampling_sizes]
        self.sampling_sizes = tuple(dict.fromkeys(sizes))
        self.offered = offered_options(adaptor, model)
        options = allowed_options(self.offered, arguments, warn=False)
        self.fp32_reasons = reasons_for_fp32(adaptor, model, options, arguments)
        self.space = self._space()
        self.plans: tuple[SmoothingPlan, ...] = ()
        self.baseline = Scores(float("nan"))
        self.kept: tuple[int, Any] | None = None
        self.history = History(
            arguments.storage, self._study_key(), higher_is_better=arguments.accuracy_criterion.higher_is_better
        )

    @property
    def goal(self) -> Goal | None:
        """What a score must reach; None without an evaluation."""
        return None if self.evaluate is None else Goal(self.baseline.mean, self.arguments.accuracy_criterion)

    def _space(self) -> TuningSpace:
        """What there is to decide, without the operators that have a reason to stay in fp32."""
        options = allowed_options(self.offered, self.arguments, warn=False)
        left = {operator: (FP32,) if operator[0] in self.fp32_reasons else each for operator, each in options.items()}
        return build_space(left, self.adaptor.groups(self.model))

    def complete(self) -> Tuned:
        """Speed of units, baseline, smoothing, search, result."""
        if self.arguments.objective == "performance":
            self._leave_out_slow_units()
        self.ranking = Ranking(self.adaptor, self.model, self.space, self.phases, self.history.work)
        self.candidates = Candidates(self.adaptor, self.model, self.dataloader, self.space, self.phases)
        self.evaluations = Evaluations(self.evaluate, self.history, self.candidates, self.phases, self.arguments)
        steps = [self._find_plans] if self.evaluate is None else [self._find_baseline, self._find_plans]
        # Where another process evaluates the fp32 model, this one has time for the alphas.
        if self.history.work.is_claimed(_BASELINE):
            steps.reverse()
        for step in steps:
            step()
        if self.goal is None:
            assignment = self.space.default(self.sampling_sizes[-1], self.plans[0].alphas)
            return self._finish(assignment, None, self.candidates.build(assignment))
        logger.info("fp32 score %g, goal %s", self.goal.baseline, self.goal.describe())
        try:
            self._search(self.goal)
        except EvaluationError as error:
            partial = self._partial_result()
            kept = (
                "No trial was finished before it."
                if partial is None
                else "The finished trials and the best model so far are in this exception's .partial_result."
            )
            raise EvaluationError(f"{error} {kept}", partial) from (error.__cause__ or error)
        except KeyboardInterrupt as interrupt:
            logger.warning("interrupted; the best model so far is put together. Interrupt again to leave at once")
            raise TuningInterrupted(self._partial_result()) from interrupt
        best = self._best()
        if best is None:
            errors = [trial.error for trial in self.history.trials() if trial.error]
            raise QuantizationError(
                f"no candidate could be built and evaluated; the last of {len(errors)} errors: "
                f"{errors[-1] if errors else 'none'}"
            )
        return self._finish(best.assignment, best, self._candidate(best))

    def _leave_out_slow_units(self) -> None:
        """Units that int8 makes no faster stay in fp32; what one process measured holds for all."""

        def compute() -> dict[str, str]:
            with self.phases.phase("measurement"):
                return slow_units(self.adaptor, self.space.units, expired=self.phases.expired)

        slow = self.history.work.once("slow units", compute, keep=lambda: not self.phases.expired())
        slow = {name: reason for name, reason in slow.items() if not is_asked_for(name, self.arguments)}
        if slow:
            self.fp32_reasons |= slow
            self.space = self._space()

    def _find_baseline(self) -> None:
        def compute() -> bool:
            self.history.baseline = self.evaluations.fp32(self.model)
            return True

        if self.history.baseline is None:
            self.history.work.once(_BASELINE, compute)
        stored = self.history.baseline
        assert stored is not None
        self.baseline = stored

    def _find_plans(self) -> None:
        def compute() -> list[dict[str, Any]]:
            with self.phases.phase("smoothing", planned_steps(self.arguments.smoothing, self.space)) as advance:
                plans = plan_smoothing(
                    self.adaptor,
                    self.model,
                    self.space,
                    self.arguments.smoothing,
                    self.sampling_sizes[-1],
                    expired=self.phases.expired,
                    advance=advance,
                )
            return [asdict(plan) for plan in plans]

        # A search that the clock cut short is not what a later run, with more time, should find.
        plans = self.history.work.once("smoothing plans", compute, keep=lambda: not self.phases.expired())
        self.plans = tuple(SmoothingPlan(**plan) for plan in plans)

    def _search(self, goal: Goal) -> None:
        """Evaluate what the strategy proposes until it has nothing left, or the user's limits are reached."""
        strategy = STRATEGIES[self.arguments.strategy]
        while True:
            trials = self.history.trials()
            running = [trial for trial in trials if trial.state == "running"]
            proposal = None
            if not self._is_over(goal, trials):
                proposal = strategy(
                    SearchView(
                        space=self.space,
                        trials=trials,
                        goal=goal,
                        plans=self.plans,
                        sampling_sizes=self.sampling_sizes,
                        rank=self.ranking.rank,
                        curvature=self.ranking.curvature,
                        fallback=self.ranking.fallback,
                        thorough=self.arguments.tuning_time > 0,
                        seed=self.arguments.seed,
                        workers=self.history.workers,
                    )
                )
            if proposal is not None:
                self._try(proposal, goal)
            elif running and not self._is_decided(goal, trials):
                time.sleep(POLL_SECONDS)
            else:
                return

    def _is_over(self, goal: Goal, trials: tuple[Trial, ...]) -> bool:
        """Whether no further evaluation should begin."""
        begun = [trial for trial in trials if not trial.interrupted]
        if len(begun) >= self.arguments.max_trials:
            return True
        if self.arguments.tuning_time == 0:
            return any(trial.met for trial in trials)
        return self.phases.expired() and any(trial.state != "running" for trial in begun)

    def _is_decided(self, goal: Goal, trials: tuple[Trial, ...]) -> bool:
        """Whether evaluations that still run in other processes cannot change the outcome, or are too late."""
        best = choose_best(goal, trials)
        if best is None:
            return False
        if self.arguments.tuning_time > 0:
            return self.phases.expired()
        running = [trial for trial in trials if trial.state == "running"]
        return best.met and all(trial.assignment.relaxations > best.assignment.relaxations for trial in running)

    def _try(self, proposal: Proposal, goal: Goal) -> None:
        found = self.evaluations.candidate(proposal, self.baseline, goal)
        if found is not None:
            trial, model = found
            best = self._best()
            if best is not None and best.number == trial.number:
                self.kept = (trial.number, model)

    def _partial_result(self) -> TuningResult | None:
        """Everything found so far, with the best model; None where no trial was finished."""
        best = self._best()
        if best is None:
            return None
        tuned = self._finish(best.assignment, best, self._candidate(best))
        tuned.result.model = tuned.model
        return tuned.result

    def _best(self) -> Trial | None:
        assert self.goal is not None
        return choose_best(self.goal, self.history.trials())

    def _candidate(self, trial: Trial) -> Any:
        """The trial's model; built again where another process, or a run before this one, evaluated it."""
        if self.kept is not None and self.kept[0] == trial.number:
            return self.kept[1]
        return self.candidates.build(trial.assignment)

    def _finish(self, assignment: Assignment, trial: Trial | None, candidate: Any) -> Tuned:
        tune_cfg = self.space.tune_cfg(assignment)
        measured = trial.gain if trial is not None else None
        objective = self.arguments.objective
        gained = self.candidates.gain(assignment, candidate, objective) if measured is None else measured
        is_speed = objective == "performance"
        speedup = gained if is_speed else self.candidates.gain(assignment, candidate, "performance")
        tuned_model = self.adaptor.tuned_model(tune_cfg, self.model, candidate)
        result = build_result(
            adaptor=self.adaptor,
            model=self.model,
            candidate=candidate,
            options=self.offered,
            fp32_reasons=self.fp32_reasons,
            space=self.space,
            assignment=assignment,
            trial=trial,
            goal=self.goal,
            trials=self.history.trials(),
            plans=self.plans,
            ranks=self.ranking.ranks,
            evaluations=self.evaluations.count,
            objective=objective,
            gain=gained,
            speedup=speedup,
            phases=self.phases.seconds,
            notes=(*self.history.notes, *self.candidates.notes, *(plan.note for plan in self.plans if plan.note)),
        )
        return Tuned(tuned_model, result)

    def _study_key(self) -> StudyKey:
        """The user's name or ours, with everything that decides a score."""
        prefix = self.arguments.study_name or "autotune"
        fingerprint = self.adaptor.fingerprint(self.model) if self.arguments.storage else None
        if fingerprint is None:
            return StudyKey(prefix, {})
        excluded = {"storage", "study_name", "progress", "max_trials", "tuning_time"}
        return StudyKey(
            prefix,
            {
                "inc_autotune": [inc_autotune.__version__, STORAGE_FORMAT],
                "model or calibration data (or example_inputs)": fingerprint,
                "evaluation": None if self.evaluate is None else callable_fingerprint(self.evaluate),
                "operators": [
                    (unit.operators, [option.to_dict() for option in unit.options]) for unit in self.space.units
                ],
                **self.arguments.model_dump(exclude=excluded, warnings=False),
            },
        )


_BASELINE = "baseline"
