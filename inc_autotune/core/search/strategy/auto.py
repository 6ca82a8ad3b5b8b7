"""Everything int8 first; then as few fallbacks as the goal allows, the most harmful units first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from inc_autotune.core.analysis import UnitHarm
from inc_autotune.core.search.strategy.accumulate import with_fallbacks
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.prefixes import Prefixes, fewest, smallest_power
from inc_autotune.core.search.strategy.put_back import put_back
from inc_autotune.core.search.strategy.starts import begin, best_start, start_met
from inc_autotune.core.space import Assignment

HOPELESS = 2.0
"""A number of fallbacks is left out if the harm that it leaves promises more than this many times the loss that is
allowed, since losses do not grow exactly as harm does."""

LEFT_OUT = 1 / 8
"""Of the units, no more than so many fall back at first whatever is promised."""


def auto(view: SearchView) -> Proposal | None:
    """The default strategy.

    1. Every unit quantized, with each required smoothing plan and sampling size.
    2. From the best of those, the 1, 2, 4, 8, ... most harmful units fall back (to dynamic or bf16 where that takes
       the harm away, else to fp32) until the goal is met, so hardly more than twice the needed number. No step gives
       up more than half of the units that are still quantized. The first numbers are left out where they leave too
       much harm.
    3. If even that fails, a unit that seemed harmless breaks the goal: the same from both ends of the ranking.
    4. With time left, bisection between the last failure and the success; then the next smaller number, since harm is
       not monotone; then fallbacks that the goal does not need are quantized again. If no unit had to fall back, the
       smoothing plans in reserve are tried, since one of them may be faster.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    start = best_start(view)
    harms = view.rank(start)
    for prefixes in _orders(view, start, harms):
        proposal, met = smallest_power(prefixes)
        if proposal is not None:
            return proposal
        if met is not None:
            return _refine(view, prefixes, met) if view.thorough else None
    return None


def _orders(view: SearchView, start: Assignment, harms: Sequence[UnitHarm]) -> list[Prefixes]:
    """The orders in which units fall back, tried one after the other.

    If the goal is missed although all units but the last one fall back, either dynamic and bf16 are not exact enough
    (second order: fp32), or the last unit does the harm although its rank is the lowest (third: from both ends).
    """

    order = [harm.unit for harm in harms]

    def in_fp32(units: Sequence[str]) -> Assignment:
        return view.space.without(start, units)

    from_both_ends = list(chain.from_iterable(zip(reversed(order), order, strict=True)))[: len(order)]
    first = Prefixes(view, order, lambda units: with_fallbacks(view, start, units))
    return [
        replace(first, counts=_hopeful(view, start, harms, first.powers())),
        Prefixes(view, order, in_fp32, (len(order) - 1,), "fp32"),
        Prefixes(view, from_both_ends, in_fp32, only="fp32"),
    ]


def _hopeful(view: SearchView, start: Assignment, harms: Sequence[UnitHarm], counts: Sequence[int]) -> tuple[int, ...]:
    """The numbers of fallbacks, without the first ones that leave the goal out of reach.

    The loss of `start` is shared out among units by their harm. Where one of these is not known, nothing is left out.
    """
    trial, errors = view.trial_of(start), [harm.error for harm in harms if harm.error is not None]
    total, allowed = math.fsum(errors), HOPELESS * view.goal.tolerance
    if trial is None or trial.score is None or len(errors) < len(harms) or not 0 < total < math.inf:
        return tuple(counts)
    loss, first = view.goal.loss(trial.score), 0
    while (
        first + 1 < len(counts)
        and counts[first + 1] <= LEFT_OUT * len(harms)
        and loss * math.fsum(errors[counts[first] :]) > allowed * total
    ):
        first += 1
    return tuple(counts[first:])


def _refine(view: SearchView, prefixes: Prefixes, met: int) -> Proposal | None:
    """Fewer fallbacks than `met`, which met the goal."""
    proposal, met = fewest(prefixes, met)
    if proposal is not None:
        return proposal
    return put_back(view, prefixes.build, prefixes.order[:met])
