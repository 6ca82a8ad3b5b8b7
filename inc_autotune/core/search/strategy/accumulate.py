"""Fallbacks added one by one, the most harmful unit first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.space import Assignment


@dataclass(frozen=True)
class Accumulation:
    """How far the accumulation has come.

    Args:
        proposal: the next model to try; None where the goal was met or nothing is left.
        fallen: the units that fell back in the model that met the goal, the most harmful first; empty if none did.
    """

    proposal: Proposal | None = None
    fallen: tuple[str, ...] = ()


def accumulate(view: SearchView, start: Assignment, *, fewer_than: int | None = None) -> Accumulation:
    """Let the 1, 2, 3, ... most harmful units of `start` fall back until the goal is met.

    At least one unit stays quantized: the fp32 model itself is no candidate.

    Args:
        fewer_than: a number of fallbacks that met the goal already; only smaller numbers are tried.
    """
    order = tuple(harm.unit for harm in view.rank(start))
    limit = len(order) if fewer_than is None else min(fewer_than, len(order))
    for count in range(1, limit):
        assignment = with_fallbacks(view, start, order[:count])
        trial = view.trial_of(assignment)
        if trial is None:
            return Accumulation(proposal=Proposal(assignment, f"{count} of {len(order)} units fall back"))
        if trial.met:
            return Accumulation(fallen=order[:count])
    return Accumulation()


def with_fallbacks(view: SearchView, start: Assignment, units: Sequence[str]) -> Assignment:
    """`start` with these units at the first of dynamic, bf16 and fp32 that takes their harm away."""
    return start.replace({unit: view.fallback(start, unit) for unit in units})
