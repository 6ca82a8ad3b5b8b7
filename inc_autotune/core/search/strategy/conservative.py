"""From fp32 towards int8: a family of operators is quantized only where the goal holds with it."""

from __future__ import annotations

from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.families import families
from inc_autotune.core.search.strategy.starts import all_quantized, best_start, first_untried, start_met


def conservative(view: SearchView) -> Proposal | None:
    """Every unit quantized; where that fails, fp32 with `conv`, `linear` and `other` operators quantized in turn.

    A family stays quantized if the goal is met with this family and the families kept before. Single units are never
    decided, so a model of any size takes at most three evaluations after the all-quantized ones.
    """
    proposal = first_untried(view, all_quantized(view))
    if proposal is not None or start_met(view):
        return proposal
    start = best_start(view)
    kept: tuple[str, ...] = ()
    quantized: list[str] = []
    for family, names in families(view.space, start).items():
        assignment = view.space.only(start, (*kept, *names))
        trial = view.trial_of(assignment)
        if trial is None and assignment.digest != start.digest:
            return Proposal(assignment, f"{', '.join([*quantized, family])} quantized, the rest in fp32")
        if trial is not None and trial.met:
            kept = (*kept, *names)
            quantized.append(family)
    return None
