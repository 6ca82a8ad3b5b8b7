"""Whether weights are rounded to nearest or by the second moment of their input, decided at the model's output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.output_error import OutputErrors
from inc_autotune.core.analysis.smoothing_plan import SmoothingPlan, uniform_name
from inc_autotune.core.op_config import SMOOTHQUANT
from inc_autotune.core.space import TuningSpace, Unit
from inc_autotune.core.vocabulary import RequestedRounding

logger = logging.getLogger(__name__)

BY_SECOND_MOMENTS = "with weights rounded by second moments"
"""How the name of such a plan ends."""


NO_SUM = "rows of a table are never summed"
"""A reason for nearest rounding."""

OTHERS_READ_IT = "others read the weight too"
"""Another."""

NO_MOMENT = "the second moment of its input was not taken: no sample reached it, or memory did not suffice"
"""Another."""


@runtime_checkable
class SupportsRounding(Protocol):
    """An adaptor that can round weights by the second moment of what they are multiplied with."""

    def rounded_units(self, units: Sequence[Unit]) -> Sequence[str]:
        """Names of the units whose weights can be rounded so in their first option."""

    def rounding_reason(self, name: str) -> str | None:
        """Why the weight of an operator that can be quantized is rounded to nearest; None where it need not be."""


def plan_rounding(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    plans: Sequence[SmoothingPlan],
    requested: RequestedRounding,
    sampling_size: int,
    *,
    alphas: Sequence[float] = (),
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[SmoothingPlan, ...]:
    """The plans with the rounding of weights decided, best first.

    "auto" compares the best plan with itself rounded by second moments, on held-out samples; without an output to
    compare, weights stay rounded to nearest. What wins holds for all plans. Where it is the second moments, activations
    are rounded too and the plan has one alpha for all layers, larger alphas follow, until one is no better: they move
    error from activations into weights, which now bear more of it. The best plan without this rounding stays in
    reserve.

    Args:
        plans: best first.
        requested: "second_moment" and "nearest" are taken whatever the comparison says.
        alphas: those that the best plan may move to, in increasing order.
        expired: once true, nothing more is compared.
        advance: called after each comparison.
    """
    names = tuple(adaptor.rounded_units(space.units)) if isinstance(adaptor, SupportsRounding) else ()
    if not names and requested == "second_moment":
        note = "weight_rounding has no effect: the model has no operator whose weight can be rounded by second moments"
        logger.warning("%s", note)
        return (replace(plans[0], note=note if plans[0].note is None else f"{plans[0].note}; {note}"), *plans[1:])
    if not names or requested == "nearest":
        return tuple(plans)

    errors = OutputErrors(adaptor, model, expired=expired, advance=advance)

    def measured(plan: SmoothingPlan) -> SmoothingPlan:
        if plan.output_error is not None:
            return plan
        return replace(plan, output_error=errors.of(space.tune_cfg(plan.assignment(space, sampling_size))))

    def rounded(plan: SmoothingPlan) -> SmoothingPlan:
        name = f"{plan.name} {BY_SECOND_MOMENTS}"
        return replace(plan, name=name, rounded=names, output_error=None, note=None)

    nearest = measured(plans[0])
    best = measured(rounded(nearest))
    if requested == "auto" and not best.is_closer_than(nearest):
        compared = () if best.output_error is None else (replace(best, required=False),)
        return (nearest, *plans[1:], *compared)
    for plan in _larger(nearest, alphas) if rounds_activations(space) else ():
        other = measured(rounded(plan))
        if not other.is_closer_than(best):
            break
        best = other
    rest = [plan for plan in map(rounded, plans[1:]) if plan.name != best.name]
    return (replace(best, note=nearest.note), *rest, replace(nearest, required=False, note=None))


def rounds_activations(space: TuningSpace) -> bool:
    """Whether any unit has integer activations where everything is quantized."""
    return any(not unit.options[0].activation.is_float for unit in space.units)


def _larger(plan: SmoothingPlan, alphas: Sequence[float]) -> Iterator[SmoothingPlan]:
    """The plan with the alphas above the one that all layers of it share."""
    shared, forms = set(plan.alphas.values()), {plan.forms.get(name, SMOOTHQUANT) for name in plan.alphas}
    if len(shared) == len(forms) == 1:
        ((current,), (form,)) = shared, forms
        for alpha in alphas:
            if current is not None and alpha > current:
                yield replace(plan, name=uniform_name(alpha, form), alphas=dict.fromkeys(plan.alphas, alpha))
