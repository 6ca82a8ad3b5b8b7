"""Everything int8 first; then as few fallbacks as the goal allows, the most harmful units first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from inc_autotune.core.search.strategy.accumulate import with_fallbacks
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.prefixes import Prefixes, fewest, smallest_power
from inc_autotune.core.search.strategy.put_back import put_back
from inc_autotune.core.search.strategy.starts import begin, best_start, start_met
from inc_autotune.core.space import Assignment


def auto(view: SearchView) -> Proposal | None:
    """The default strategy.

    1. Every unit quantized, with each required smoothing plan and sampling size.
    2. From the best of those, the 1, 2, 4, 8, ... most harmful units fall back (to dynamic or bf16 where that takes
       the harm away, else to fp32) until the goal is met, so never more than twice the needed number. No step gives
       up more than half of the units that are still quantized.
    3. If even that fails, a unit that seemed harmless breaks the goal: the same from both ends of the ranking.
    4. With time left, bisection between the last failure and the success; then the next smaller number, since harm is
       not monotone; then fallbacks that the goal does not need are quantized again. If no unit had to fall back, the
       smoothing plans in reserve are tried, since one of them may be faster.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    start = best_start(view)
    order = [harm.unit for harm in view.rank(start)]
    for prefixes in _orders(view, start, order):
        proposal, met = smallest_power(prefixes)
        if proposal is not None:
            return proposal
        if met is not None:
            return _refine(view, prefixes, met) if view.thorough else None
    return None


def _orders(view: SearchView, start: Assignment, order: Sequence[str]) -> list[Prefixes]:
    """The orders in which units fall back, tried one after the other.

    If the goal is missed although all units but the last one fall back, either dynamic and bf16 are not exact enough
    (second order: fp32), or the last unit does the harm although its rank is the lowest (third: from both ends).
    """

    def in_fp32(units: Sequence[str]) -> Assignment:
        return view.space.without(start, units)

    from_both_ends = list(chain.from_iterable(zip(reversed(order), order, strict=True)))[: len(order)]
    return [
        Prefixes(view, order, lambda units: with_fallbacks(view, start, units)),
        Prefixes(view, order, in_fp32, (len(order) - 1,), "fp32"),
        Prefixes(view, from_both_ends, in_fp32, only="fp32"),
    ]


def _refine(view: SearchView, prefixes: Prefixes, met: int) -> Proposal | None:
    """Fewer fallbacks than `met`, which met the goal."""
    proposal, met = fewest(prefixes, met)
    if proposal is not None:
        return proposal
    return put_back(view, prefixes.build, prefixes.order[:met])
