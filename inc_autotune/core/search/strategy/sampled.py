"""Optuna's samplers over the same space: which units are quantized, with which smoothing and calibration size.

Each call builds a study in memory from the trials, so the samplers keep no state either: the same trials and the same
seed give the same proposal. They need many evaluations (Optuna's own start with ten random ones) and are offered for
comparison; `auto` is the strategy to use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.starts import all_quantized, any_met, first_untried
from inc_autotune.core.search.study import Trial, quiet_optuna
from inc_autotune.core.space import Assignment

ATTEMPTS = 3
"""Draws from a sampler before BruteForceSampler takes over: a sampler that has converged repeats itself."""

PLAN, SAMPLING_SIZE = "smoothing plan", "sampling size"

Parameters = Mapping[str, Any]


def check_gaussian_process() -> None:
    """Check that what Optuna's GPSampler computes with is installed.

    Raises:
        MissingDependencyError: torch or scipy is not.
    """
    missing = [package for package in ("scipy", "torch") if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"strategy='bayesian': {' and '.join(missing)} not installed, and Optuna's Gaussian process needs scipy "
            f"and torch. Run: pip install {' '.join(missing)}. Or use strategy='tpe', which needs neither."
        )


def bayesian(view: SearchView) -> Proposal | None:
    """A Gaussian process over the choices (Optuna's GPSampler)."""
    return _sampled(view, "bayesian", lambda seed: GPSampler(seed=seed))


def tpe(view: SearchView) -> Proposal | None:
    """A tree-structured Parzen estimator (Optuna's TPESampler)."""
    return _sampled(view, "tpe", lambda seed: TPESampler(seed=seed))


def random_search(view: SearchView) -> Proposal | None:
    """Uniform draws without repetition (Optuna's RandomSampler)."""
    return _sampled(view, "random", lambda seed: RandomSampler(seed=seed))


def exhaustive(view: SearchView) -> Proposal | None:
    """Every combination once, in random order (Optuna's BruteForceSampler); the product is never built."""
    return _sampled(view, "exhaustive", lambda seed: BruteForceSampler(seed=seed))


def _sampled(view: SearchView, name: str, sampler: Callable[[int], BaseSampler]) -> Proposal | None:
    """All-quantized models first, then untried models that the sampler draws."""
    proposal = first_untried(view, all_quantized(view))
    if proposal is not None or (any_met(view) and not view.thorough):
        return proposal
    choices = _Choices(view)
    covered = choices.covered()
    if len(covered) >= choices.combinations:
        return None
    drawn = _draw(view, choices, covered, sampler)
    assignment = choices.assignment(drawn)
    return Proposal(assignment, f"{name}: {len(assignment.fallback_units)} of {len(view.space.units)} units in fp32")


def _draw(
    view: SearchView,
    choices: _Choices,
    covered: Mapping[tuple[Any, ...], FrozenTrial],
    sampler: Callable[[int], BaseSampler],
) -> Parameters:
    """Parameters of an untried model; some must be left."""
    finished = sum(not trial.interrupted for trial in view.trials)
    seed = int.from_bytes(hashlib.sha256(f"{view.seed} {finished}".encode()).digest()[:4], "big")
    with quiet_optuna():
        for chosen, attempts in ((sampler(seed), ATTEMPTS), (BruteForceSampler(seed=seed), 1)):
            study = optuna.create_study(direction="maximize", sampler=chosen)
            study.add_trials(covered.values())
            for _ in range(attempts):
                parameters = study.ask(choices.distributions).params
                if choices.key(parameters) not in covered:
                    return parameters
    raise AssertionError("BruteForceSampler repeated a combination although some were left")


@dataclass(frozen=True)
class _Choices:
    """The space as Optuna sees it: a flag for each unit; the plan and the size, if there are several."""

    view: SearchView

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        sizes, plans = self.view.sampling_sizes, self.view.plans
        found: dict[str, BaseDistribution] = {}
        if len(sizes) > 1:
            found[SAMPLING_SIZE] = CategoricalDistribution(tuple(sizes))
        if len(plans) > 1:
            found[PLAN] = CategoricalDistribution(tuple(range(len(plans))))
        return found | {_flag(name): CategoricalDistribution((True, False)) for name in self.free_units}

    @cached_property
    def free_units(self) -> tuple[str, ...]:
        """Units whose default is quantized; the others stay at their float default."""
        return tuple(unit.name for unit in self.view.space.units if unit.options[0].is_quantized)

    @property
    def combinations(self) -> int:
        return int(2 ** len(self.free_units)) * len(self.view.sampling_sizes) * len(self.view.plans)

    def key(self, parameters: Parameters) -> tuple[Any, ...]:
        return tuple(parameters[name] for name in self.distributions)

    def assignment(self, parameters: Parameters) -> Assignment:
        size = parameters.get(SAMPLING_SIZE, self.view.sampling_sizes[0])
        plan = self.view.plans[parameters.get(PLAN, 0)]
        fallbacks = [name for name in self.free_units if not parameters[_flag(name)]]
        return self.view.space.without(plan.assignment(self.view.space, size), fallbacks)

    def covered(self) -> dict[tuple[Any, ...], FrozenTrial]:
        """Combinations that need no evaluation: the tried ones, and the fp32 model itself, which is no candidate."""
        losses = [self.view.goal.loss(trial.score) for trial in self.view.trials if trial.score is not None]
        worst = max(losses, default=0.0)
        found = {}
        for chosen in self._plans_and_sizes():
            parameters = chosen | {_flag(name): False for name in self.free_units}
            found[self.key(parameters)] = self._frozen(parameters, None)
        for trial in self.view.trials:
            if not trial.interrupted:
                for parameters in self._parameters(trial.assignment):
                    found[self.key(parameters)] = self._frozen(parameters, self._value(trial, worst))
        return found

    def _plans_and_sizes(self) -> Iterator[dict[str, Any]]:
        named = [name for name in (SAMPLING_SIZE, PLAN) if name in self.distributions]
        for values in product(*(_values(self.distributions[name]) for name in named)):
            yield dict(zip(named, values, strict=True))

    def _parameters(self, assignment: Assignment) -> Iterator[dict[str, Any]]:
        """Every combination that gives `assignment`: several, if plans differ only in units that are in fp32."""
        flags = {_flag(name): assignment.by_unit[name] != FP32 for name in self.free_units}
        for chosen in self._plans_and_sizes():
            parameters = chosen | flags
            if self.assignment(parameters).digest == assignment.digest:
                yield parameters

    def _value(self, trial: Trial, worst: float) -> float | None:
        """What the samplers maximize: -1 to 0 below the goal, by score; above it the share of quantized units."""
        if trial.score is None:
            return None
        if trial.met:
            return 1.0 - len(trial.assignment.fallback_units) / len(self.view.space.units)
        loss, tolerated = self.view.goal.loss(trial.score), self.view.goal.tolerance
        return -(loss - tolerated) / max(worst - tolerated, 1e-30)

    def _frozen(self, parameters: Parameters, value: float | None) -> FrozenTrial:
        return create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=dict(parameters),
            distributions=self.distributions,
        )


def _flag(unit: str) -> str:
    return f"{unit} is quantized"


def _values(distribution: BaseDistribution) -> tuple[Any, ...]:
    assert isinstance(distribution, CategoricalDistribution)
    return tuple(distribution.choices)
