"""Corrections of the whole model: which of them are made, by the error at its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.output_error import OutputErrors
from inc_autotune.core.analysis.smoothing_plan import LEAST_ADVANTAGE
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.vocabulary import Correction

UNCORRECTED = "off"
"""Name of the plan without corrections."""


@runtime_checkable
class SupportsCorrections(Protocol):
    """An adaptor that can correct what rounding shifts."""

    def corrections(self, model: Any, name: str, config: OpConfig) -> Collection[Correction]:
        """The corrections that an operator of this configuration can have at no cost at run time.

        `quantize` makes those that a configuration asks for, and ignores those that are not among these.
        """


def possible_corrections(adaptor: Adaptor, model: Any, name: str, config: OpConfig) -> Collection[Correction]:
    """See `SupportsCorrections`; none where the adaptor has none, or the operator stays in float."""
    if not config.is_quantized or not isinstance(adaptor, SupportsCorrections):
        return ()
    return adaptor.corrections(model, name, config)


@dataclass(frozen=True)
class CorrectionPlan:
    """Corrections that all operators get that can have them.

    Args:
        corrections: their names.
        output_error: relative squared error at the model's output on held-out samples; None if it is not measured.
        note: for the user, about the plan.
    """

    corrections: tuple[Correction, ...] = ()
    output_error: float | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        """`off`, or the corrections."""
        return " + ".join(self.corrections) or UNCORRECTED


def plan_corrections(
    adaptor: Adaptor,
    model: Any,
    requested: Mapping[Correction, bool | Literal["auto"]],
    tune_cfg: Callable[[tuple[Correction, ...]], Mapping[str, Any]],
    *,
    uncorrected: float | None = None,
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[CorrectionPlan, ...]:
    """The plan to use, and the others that it was compared with, by their errors.

    Every choice that `requested` leaves is built and compared with fp32 at the output. One with more corrections than
    are asked for is taken if its error is `LEAST_ADVANTAGE` times smaller than without.

    Args:
        requested: True makes a correction, False does not, "auto" compares.
        tune_cfg: the candidate with these corrections, as `Adaptor.quantize` takes it.
        uncorrected: the error without corrections, if it is known.
        expired: once true, nothing more is measured, and only what is asked for is done.
        advance: called after each measured plan.
    """
    asked = tuple(name for name, choice in requested.items() if choice is True)
    free = [name for name, choice in requested.items() if choice == "auto"]
    chosen = [
        tuple(name for name in requested if name in {*asked, *more})
        for count in range(len(free) + 1)
        for more in combinations(free, count)
    ]

    errors = OutputErrors(adaptor, model, expired=expired, advance=advance)

    def measured(corrections: tuple[Correction, ...]) -> CorrectionPlan:
        if not corrections and uncorrected is not None:
            advance()
            return CorrectionPlan(corrections, uncorrected)
        return CorrectionPlan(corrections, errors.of(tune_cfg(corrections)))

    if chosen == [()]:
        return ()
    plans = [measured(corrections) for corrections in chosen]
    best = plans[0]
    for plan in plans[1:]:
        if best.output_error is None or plan.output_error is None:
            break
        needed = LEAST_ADVANTAGE if best is plans[0] else 1.0
        if plan.output_error * needed < best.output_error:
            best = plan
    if asked:
        plans.append(measured(()))
    return (best, *sorted((plan for plan in plans if plan is not best), key=_error))


def _error(plan: CorrectionPlan) -> float:
    return math.inf if plan.output_error is None else plan.output_error


def planned_corrections(requested: Mapping[Correction, bool | Literal["auto"]]) -> int:
    """How many plans `plan_corrections` measures, for a progress bar."""
    free = sum(choice == "auto" for choice in requested.values())
    asked = any(choice is True for choice in requested.values())
    return 2**free + asked if free or asked else 0
