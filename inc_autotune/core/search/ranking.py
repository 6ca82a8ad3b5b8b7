"""The harm of units and their fallbacks, measured once in a tuning run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import (
    UnitHarm,
    choose_fallback,
    error_or_infinity,
    estimate_harms,
    probe_halves,
    rank_units,
)
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.progress import Phases
from inc_autotune.core.search.study import SharedWork
from inc_autotune.core.space import Assignment, TuningSpace


class Ranking:
    """Ranks units, and finds what they fall back to, when a strategy asks for it.

    Args:
        work: keeps measurements for other processes of the run and for a run after a crash. Two processes that rank at
            the same time measure from opposite ends and meet in the middle.
    """

    def __init__(self, adaptor: Adaptor, model: Any, space: TuningSpace, phases: Phases, work: SharedWork) -> None:
        self._adaptor, self._model, self._space, self._phases, self._work = adaptor, model, space, phases, work
        self._fallbacks: dict[tuple[str, str], OpConfig] = {}
        self.ranks: dict[str, tuple[UnitHarm, ...]] = {}
        """Units by harm, by the digest of the assignment they were ranked in."""

    def rank(self, assignment: Assignment) -> Sequence[UnitHarm]:
        """The quantized units of `assignment`, the most harmful first."""

        def measure() -> Sequence[UnitHarm]:
            with self._phases.phase("ranking", len(self._space.units)) as advance:
                return rank_units(
                    self._adaptor,
                    self._model,
                    self._space,
                    assignment,
                    expired=self._phases.expired,
                    advance=advance,
                    error_of=self._error_of,
                    backwards=self._work.index % 2 == 1,
                )

        digest = assignment.digest
        if digest not in self.ranks:
            self.ranks[digest] = self._agreed(f"ranking {digest}", measure)
        return self.ranks[digest]

    def curvature(self, assignment: Assignment) -> Sequence[UnitHarm]:
        """The same from gradients alone; measured, where this model gives none."""

        def estimate() -> Sequence[UnitHarm]:
            with self._phases.phase("ranking"):
                harms = estimate_harms(self._adaptor, self._space, assignment, expired=self._phases.expired)
            return self.rank(assignment) if harms is None else harms

        digest = assignment.digest
        if digest not in self.ranks:
            self.ranks[digest] = self._agreed(f"curvature {digest}", estimate)
        return self.ranks[digest]

    def fallback(self, assignment: Assignment, unit: str) -> OpConfig:
        """What a harmful unit of `assignment` becomes instead."""
        digest = assignment.digest
        if (digest, unit) not in self._fallbacks:
            self._fallbacks[digest, unit] = self._choose_fallback(assignment, unit)
        return self._fallbacks[digest, unit]

    def _choose_fallback(self, assignment: Assignment, unit: str) -> OpConfig:
        key = f"fallback {assignment.digest} {unit}"
        known = self._work.get(key)
        ranked = self.rank(assignment)
        harm = next((harm for harm in ranked if harm.unit == unit), UnitHarm(unit, None))
        if known is not None:
            harm, config = UnitHarm(**known["harm"]), OpConfig.from_dict(known["config"])
        elif self._phases.expired():
            # No time is left to measure whether another form is exact enough: fp32 surely is.
            return choose_fallback(self._adaptor, self._model, self._space, assignment, UnitHarm(unit, None))
        else:
            with self._phases.phase("ranking"):
                harm = probe_halves(self._adaptor, self._model, self._space, assignment, harm)
                config = choose_fallback(
                    self._adaptor, self._model, self._space, assignment, harm, error_of=self._error_of
                )
            self._work.put(key, {"harm": asdict(harm), "config": config.to_dict()})
        self.ranks[assignment.digest] = tuple(harm if known.unit == unit else known for known in ranked)
        return config

    def _error_of(self, assignment: Assignment) -> float | None:
        key = f"error {assignment.digest}"
        error: float | None = self._work.get(key)
        if error is None:
            error = error_or_infinity(self._adaptor, self._space.tune_cfg(assignment), self._model)
            if error is not None:
                self._work.put(key, error)
        return error

    def _agreed(self, key: str, find: Callable[[], Sequence[UnitHarm]]) -> tuple[UnitHarm, ...]:
        """The harms stored under `key`, or else the harms that `find` gives.

        If another process has stored harms meanwhile, they win: rounding may differ between machines, and all processes
        have to agree on the order.
        """
        known = self._work.get(key)
        if known is None:
            harms = find()
            known = self._work.get(key)
            if known is None:
                if not self._phases.expired():
                    self._work.put(key, [asdict(harm) for harm in harms])
                return tuple(harms)
        return tuple(UnitHarm(**harm) for harm in known)
