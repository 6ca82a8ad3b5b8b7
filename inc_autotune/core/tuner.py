"""The tuning loop. Nothing else knows its order."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.capability import narrow_options
from inc_autotune.core.criterion import Goal
from inc_autotune.core.errors import AutotuneError, EvaluationError, QuantizationError
from inc_autotune.core.evaluation import Scores, judge, read_scores
from inc_autotune.core.history import History, Trial, check_storage
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.outcome import build_result, choose_best
from inc_autotune.core.progress import Phases
from inc_autotune.core.result import TuningResult
from inc_autotune.core.sensitivity import UnitHarm, choose_fallback, rank_units
from inc_autotune.core.smoothing_plan import SmoothingPlan, plan_smoothing, planned_steps
from inc_autotune.core.space import Assignment, OperatorKey, TuningSpace, build_space
from inc_autotune.core.strategy import STRATEGIES, Proposal, SearchView

logger = logging.getLogger(__name__)

Evaluate = Callable[[Any], Any]


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
    """
    # What the user asked for and cannot have is known before the model runs.
    check_storage(arguments.storage)
    build_space(_allowed_options(_offered_options(adaptor, model), arguments))
    phases = Phases(show=arguments.progress, limit=arguments.tuning_time)
    with phases.phase("calibration"):
        samples = adaptor.calibrate(model, dataloader, arguments.sampling_sizes, arguments.seed)
    return _Run(adaptor, model, dataloader, evaluate, arguments, phases, samples).complete()


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
        self.evaluations = 0
        # A loader with fewer samples than asked for makes several sampling sizes the same.
        sizes = [min(size, samples) if samples else size for size in arguments.sampling_sizes]
        self.sampling_sizes = tuple(dict.fromkeys(sizes))
        self.offered = _offered_options(adaptor, model)
        options = _allowed_options(self.offered, arguments, warn=False)
        self.fp32_reasons = _fp32_reasons(adaptor, model, options)
        chosen = {operator: (FP32,) if operator[0] in self.fp32_reasons else each for operator, each in options.items()}
        self.space: TuningSpace = build_space(chosen, adaptor.groups(model))
        self.plans: tuple[SmoothingPlan, ...] = ()
        self.baseline = Scores(float("nan"))
        self.goal: Goal | None = None
        self.history = History.open(
            storage=arguments.storage,
            name=self._study_name(),
            higher_is_better=arguments.accuracy_criterion.higher_is_better,
        )
        self.best: tuple[Trial, Any] | None = None
        self._ranks: dict[str, tuple[UnitHarm, ...]] = {}
        self._fallbacks: dict[tuple[str, str], OpConfig] = {}

    def complete(self) -> Tuned:
        """Baseline, smoothing, search, result."""
        if self.evaluate is not None:
            self.baseline = self._baseline(self.evaluate)
            self.goal = Goal(self.baseline.mean, self.arguments.accuracy_criterion)
            logger.info("fp32 score %g, goal %s", self.goal.baseline, self.goal.describe())
        with self.phases.phase("smoothing", planned_steps(self.arguments.smoothing, self.space)) as advance:
            self.plans = plan_smoothing(
                self.adaptor,
                self.model,
                self.space,
                self.arguments.smoothing,
                self.sampling_sizes[-1],
                expired=self.phases.expired,
                advance=advance,
            )
        if self.goal is None:
            assignment = self.space.default(self.sampling_sizes[-1], self.plans[0].alphas)
            return self._finish(assignment, None, self._quantize(assignment))
        self._search(self.goal)
        if self.best is None:
            errors = [trial.error for trial in self.history.trials() if trial.error]
            raise QuantizationError(
                f"no candidate could be built and evaluated; the last of {len(errors)} errors: "
                f"{errors[-1] if errors else 'none'}"
            )
        trial, candidate = self.best
        return self._finish(trial.assignment, trial, candidate)

    def _baseline(self, evaluate: Evaluate) -> Scores:
        stored = self.history.baseline
        if stored is not None:
            return stored
        with self.phases.phase("evaluation"):
            self.evaluations += 1
            try:
                scores = read_scores(evaluate(self.model), "the fp32 model")
            except AutotuneError:
                raise
            except Exception as error:
                raise EvaluationError(
                    f"eval_func raised {type(error).__name__} on the fp32 model: {error}. The model was passed as it "
                    "is: eval_func(model) must run by itself."
                ) from error
        self.history.baseline = scores
        return scores

    def _search(self, goal: Goal) -> None:
        strategy = STRATEGIES[self.arguments.strategy]
        stop_at_first = self.arguments.tuning_time == 0
        self._restore_best()
        while True:
            trials = self.history.trials()
            done = sum(not trial.interrupted for trial in trials)
            if done >= self.arguments.max_trials or (done and self.phases.expired()):
                return
            if stop_at_first and any(trial.met for trial in trials):
                return
            proposal = strategy(
                SearchView(
                    space=self.space,
                    trials=trials,
                    goal=goal,
                    plans=self.plans,
                    sampling_sizes=self.sampling_sizes,
                    rank=self._rank,
                    fallback=self._fallback,
                    thorough=not stop_at_first,
                    seed=self.arguments.seed,
                )
            )
            if proposal is None:
                return
            self._try(proposal, goal)

    def _restore_best(self) -> None:
        """After a resume, rebuild the best candidate of the stored trials."""
        for trial in self.history.trials():
            if trial.state == "complete":
                self._keep(trial, None)
        if self.best is not None:
            self.best = (self.best[0], self._quantize(self.best[0].assignment))

    def _try(self, proposal: Proposal, goal: Goal) -> None:
        """Build and evaluate one candidate; its end is recorded before any exception goes on."""
        assert self.evaluate is not None
        reserved = self.history.begin()
        trial = Trial(reserved.number, proposal.assignment, proposal.label, "failed")
        started = sum(self.phases.seconds.values())

        def record(ended: Trial) -> Trial:
            ended = replace(ended, seconds=sum(self.phases.seconds.values()) - started)
            self.history.finish(reserved, ended)
            return ended

        try:
            candidate = self._quantize(proposal.assignment)
        except Exception as error:
            # One configuration that cannot be built is a result of the search, not its end.
            logger.warning("trial %d (%s) could not be built", trial.number + 1, trial.label, exc_info=True)
            record(replace(trial, error=f"{type(error).__name__}: {error}"))
            return
        try:
            with self.phases.phase("evaluation"):
                self.evaluations += 1
                what = f"trial {trial.number + 1} ({trial.label})"
                judgement = judge(self.evaluate(candidate), self.baseline, goal, what)
        except BaseException as error:
            record(replace(trial, error=f"{type(error).__name__}: {error}", interrupted=True))
            if not isinstance(error, Exception):
                raise
            message = (
                str(error)
                if isinstance(error, EvaluationError)
                else (f"eval_func raised {type(error).__name__} in trial {trial.number + 1} ({trial.label}): {error}.")
            )
            partial_result = self._partial_result()
            kept = (
                "No trial was finished before it."
                if partial_result is None
                else "The finished trials and the best model so far are in this exception's .partial_result."
            )
            raise EvaluationError(f"{message} {kept}", partial_result) from error
        score, met = judgement.score, judgement.met
        trial = replace(
            trial,
            state="complete",
            score=score,
            met=met,
            verdict=judgement.verdict,
            interval=judgement.interval,
            samples=judgement.count,
        )
        if met and self.arguments.tuning_time > 0 and self.arguments.objective == "performance":
            trial = replace(trial, speedup=self._speedup(candidate))
        trial = record(trial)
        logger.info(
            "trial %d: %s: score %g, goal %s", trial.number + 1, trial.label, score, "met" if met else "not met"
        )
        self._keep(trial, candidate)

    def _keep(self, trial: Trial, candidate: Any) -> None:
        assert self.goal is not None
        if self.best is None or choose_best(self.goal, (self.best[0], trial)) is trial:
            self.best = (trial, candidate)

    def _rank(self, assignment: Assignment) -> Sequence[UnitHarm]:
        digest = assignment.digest
        if digest not in self._ranks:
            with self.phases.phase("ranking", len(self.space.units)) as advance:
                self._ranks[digest] = rank_units(
                    self.adaptor, self.model, self.space, assignment, expired=self.phases.expired, advance=advance
                )
        return self._ranks[digest]

    def _fallback(self, assignment: Assignment, unit: str) -> OpConfig:
        key = (assignment.digest, unit)
        if key not in self._fallbacks:
            error = {harm.unit: harm.error for harm in self._rank(assignment)}.get(unit)
            with self.phases.phase("ranking"):
                self._fallbacks[key] = choose_fallback(
                    self.adaptor, self.model, self.space, assignment, unit, None if self.phases.expired() else error
                )
        return self._fallbacks[key]

    def _quantize(self, assignment: Assignment) -> Any:
        with self.phases.phase("quantization"):
            return self.adaptor.quantize(self.space.tune_cfg(assignment), self.model, self.dataloader)

    def _speedup(self, candidate: Any) -> float | None:
        with self.phases.phase("measurement"):
            seconds = self.adaptor.measure([self.model, candidate])
        return seconds[0] / seconds[1] if seconds else None

    def _partial_result(self) -> TuningResult | None:
        if self.best is None:
            return None
        trial, candidate = self.best
        tuned = self._finish(trial.assignment, trial, candidate)
        tuned.result.model = tuned.model
        return tuned.result

    def _finish(self, assignment: Assignment, trial: Trial | None, candidate: Any) -> Tuned:
        tune_cfg = self.space.tune_cfg(assignment)
        speedup = self._speedup(candidate)
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
            ranks=self._ranks,
            evaluations=self.evaluations,
            speedup=speedup,
            phases=self.phases.seconds,
        )
        return Tuned(tuned_model, result)

    def _study_name(self) -> str:
        """The user's name or ours, with a hash of everything that decides a score."""
        fingerprint = self.adaptor.fingerprint(self.model) if self.arguments.storage else None
        if fingerprint is None:
            return self.arguments.study_name or "autotune"
        excluded = {"storage", "study_name", "progress", "max_trials", "tuning_time"}
        content = {
            "model": fingerprint,
            "arguments": self.arguments.model_dump(exclude=excluded, warnings=False),
            "space": [(unit.operators, [option.to_dict() for option in unit.options]) for unit in self.space.units],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return f"{self.arguments.study_name or 'autotune'}-{digest}"


def _offered_options(adaptor: Adaptor, model: Any) -> dict[OperatorKey, tuple[OpConfig, ...]]:
    """The adaptor's capability, parsed."""
    opwise = adaptor.query_fw_capability(model)["opwise"]
    return {operator: tuple(OpConfig.from_dict(config) for config in configs) for operator, configs in opwise.items()}


def _allowed_options(
    offered: Mapping[OperatorKey, tuple[OpConfig, ...]], arguments: AutotuneArguments, *, warn: bool = True
) -> Mapping[OperatorKey, tuple[OpConfig, ...]]:
    """What the user's rules leave of the capability."""
    return narrow_options(
        offered,
        arguments.op_type_dict,
        arguments.op_name_dict,
        approach=arguments.approach,
        excluded_precisions=arguments.excluded_precisions,
        include_weight_only=arguments.objective == "modelsize",
        warn=warn,
    )


def _fp32_reasons(adaptor: Adaptor, model: Any, options: Mapping[OperatorKey, tuple[OpConfig, ...]]) -> dict[str, str]:
    """Operators whose default the adaptor advises against, with its reason."""
    reasons = {
        name: adaptor.fp32_reason(model, name, configs[0])
        for (name, _), configs in options.items()
        if configs[0].is_quantized
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}
