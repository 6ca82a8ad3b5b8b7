"""How many of the units, in a given order, have to fall back: galloping, then bisection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.study import Trial
from inc_autotune.core.space import Assignment


@dataclass(frozen=True)
class Prefixes:
    """The models in which the first 1, 2, 3, ... units of an order fall back.

    Args:
        order: units, the first to fall back first.
        build: the assignment in which these units fall back.
        counts: the only numbers of fallbacks to try. By default they double, 1, 2, 4, 8, ..., but none gives up more
            than half of the units that were still quantized before it: of 47 the last ones are 39, 43, 45 and 46. The
            fp32 model itself is no candidate.
        only: what the units fall back to, for people, if it is the same for all.
    """

    view: SearchView
    order: Sequence[str]
    build: Callable[[Sequence[str]], Assignment]
    counts: tuple[int, ...] | None = None
    only: str | None = None

    def proposal(self, count: int) -> Proposal:
        to = "" if self.only is None else f" to {self.only}"
        return Proposal(self.build(self.order[:count]), f"{count} of {len(self.order)} units fall back{to}")

    def trial(self, count: int) -> Trial | None:
        return self.view.trial_of(self.build(self.order[:count]))

    def powers(self) -> tuple[int, ...]:
        """`counts`, or its default."""
        if self.counts is not None:
            return tuple(count for count in self.counts if count > 0)
        return tuple(_gallop(len(self.order)))


def _gallop(units: int) -> Iterator[int]:
    """Numbers of fallbacks, each at most twice the one before, and giving up at most half of what that kept."""
    count = min(1, units - 1)
    while 0 < count < units:
        yield count
        count = min(2 * count, count + max(1, (units - count) // 2))


def smallest_power(prefixes: Prefixes) -> tuple[Proposal | None, int | None]:
    """The next number of `powers` to try, or else the first that met the goal; (None, None) if all failed."""
    for count in prefixes.powers():
        trial = prefixes.trial(count)
        if trial is None:
            return prefixes.proposal(count), None
        if trial.met:
            return None, count
    return None, None


def fewest(prefixes: Prefixes, met: int) -> tuple[Proposal | None, int]:
    """The next number below `met` to try, or None and the smallest that met the goal.

    Bisection between the largest failure and the smallest success; with several processes, into one part more than
    there are processes. Harm is not monotone, since errors cancel: once success and failure are neighbours, the number
    below the failure is tried too.
    """
    tried = {count: trial for count in range(1, met) if (trial := prefixes.trial(count)) is not None}
    met = min([met, *(count for count, trial in tried.items() if trial.met)])
    failed = max([0, *(count for count, trial in tried.items() if count < met and trial.state != "running")])
    running = sorted(count for count, trial in tried.items() if failed < count < met)
    count = _section(failed, met, running, prefixes.view.workers)
    if count is None and not running:
        count = failed - 1 if failed > 1 and failed - 1 not in tried else None
    return (None if count is None else prefixes.proposal(count)), met


def _section(failed: int, met: int, running: Sequence[int], workers: int) -> int | None:
    """A count between failure and success: the middle for one worker, the end of an equal part for several."""
    bounds = [failed, *running, met]
    low, high = max(pairwise(bounds), key=lambda gap: gap[1] - gap[0])
    if high - low < 2:
        return None
    free = max(1, workers - len(running))
    return low + max(1, (high - low) // (free + 1))
