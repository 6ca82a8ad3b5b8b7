"""How smoothing scales are made of alpha: exponents of their own for the weights, their norm, a shift of channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.output_error import OutputErrors
from inc_autotune.core.analysis.rounding_plan import BY_SECOND_MOMENTS, rounds_activations
from inc_autotune.core.analysis.smoothing_plan import LEAST_ADVANTAGE, SmoothingPlan, uniform_name
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm
from inc_autotune.core.space import TuningSpace
from inc_autotune.core.vocabulary import FormName

STEP = 0.1
"""From exponent to exponent. On MiniLM errors of neighbours near the best differ by 0 to 8 %."""

MOST_EXPONENTS = 8
"""So many pairs of exponents are compared at most, beside SmoothQuant's."""

COMPARED_AGAIN: tuple[FormName, ...] = ("shift",)
"""With weights that are rounded by second moments, where activations have integers too: a shift takes error from these,
which then count for more. In a GPT with outliers it wins only then."""

HOPELESS = 4.0
"""A form whose error is more than this many times that of the best one is not compared again, since rounding by second
moments takes as long as comparing several candidates. In SmolLM2-135M a shift has 24 times the error with nearest
integers and 2.7 times with second moments."""

_DIRECTIONS = ((0, -1), (-1, 0), (0, 1), (1, 0))
"""Of alpha and beta. Weights have a scale for each output channel, and the activation one in all, so that beta is
mostly too large where it is `1 - alpha`: on MiniLM 0.7 and 0 are best, where one alpha for both is best at 0.8."""


@runtime_checkable
class SupportsSmoothingForms(Protocol):
    """An adaptor whose smoothing scales heed `OpConfig.form`."""

    def smoothing_forms(self) -> Collection[FormName]:
        """What of a form it can change at no cost at run time."""


@dataclass(frozen=True)
class _Form:
    """Forms of all smoothed units, relative to those of a plan.

    Args:
        alpha: steps added to every alpha.
        beta: steps added to every exponent of the weights.
        changes: fields of `SmoothingForm` that all units share from then on.
    """

    alpha: int = 0
    beta: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    def exponents(self, alpha: float, form: SmoothingForm) -> tuple[float, float | None]:
        """Those of a unit with this alpha and form in the plan; beta is None where it is SmoothQuant's."""
        moved = _in_range(alpha + STEP * self.alpha)
        beta = _in_range((1 - alpha if form.beta is None else form.beta) + STEP * self.beta)
        return moved, None if beta == _in_range(1 - moved) else beta

    def moves_to(self, alphas: Collection[float], plan: SmoothingPlan) -> bool:
        """Whether it leaves the alphas of a plan as they are, or moves each to one of these."""
        return not self.alpha or all(_in_range(alpha + STEP * self.alpha) in alphas for _, alpha, _ in _smoothed(plan))

    def of(self, plan: SmoothingPlan) -> SmoothingPlan:
        """The plan with it."""
        exponents = {name: self.exponents(alpha, form) for name, alpha, form in _smoothed(plan)}
        forms = {name: replace(form, beta=exponents[name][1], **self.changes) for name, _, form in _smoothed(plan)}
        moved = {name: alpha for name, (alpha, _) in exponents.items()}
        suffix = f" {BY_SECOND_MOMENTS}" if plan.rounded else ""
        return replace(
            plan,
            name=f"{self._describe(plan, moved, forms)}{suffix}",
            alphas={**plan.alphas, **moved},
            forms=forms,
            output_error=None,
        )

    def key(self, plan: SmoothingPlan) -> tuple[tuple[float, float | None], ...]:
        """Equal for exponents that are the same, such as beyond the ends of the range."""
        return tuple(self.exponents(alpha, form) for _, alpha, form in _smoothed(plan))

    def _describe(self, plan: SmoothingPlan, alphas: Mapping[str, float], forms: Mapping[str, SmoothingForm]) -> str:
        shared, same = set(alphas.values()), set(forms.values())
        if len(shared) == 1 and len(same) == 1:
            return uniform_name(shared.pop(), same.pop())
        words = [plan.name.removesuffix(BY_SECOND_MOMENTS).rstrip()]
        for name, steps in (("alphas", self.alpha), ("betas", self.beta)):
            words += [f"{name} {STEP * steps:+g}"] if steps else []
        words.append(replace(SMOOTHQUANT, **self.changes).describe())
        return ", ".join(filter(None, words))


def _smoothed(plan: SmoothingPlan) -> Iterator[tuple[str, float, SmoothingForm]]:
    """Name, alpha and form of each smoothed unit."""
    for name, alpha in plan.alphas.items():
        if alpha is not None:
            yield name, alpha, plan.forms.get(name, SMOOTHQUANT)


def plan_forms(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    plans: Sequence[SmoothingPlan],
    allowed: Collection[FormName],
    sampling_size: int,
    *,
    alphas: Sequence[float],
    hopeless: set[FormName] | None = None,
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[SmoothingPlan, ...]:
    """The plans, with the best one's smoothing in a better form where there is one, best first.

    Candidates are compared on held-out samples, as plans are, rounded as the best plan rounds. First exponents: those
    of activations and of weights are moved by steps, one at a time, as long as that comes closer; then the norm of
    the weights in place of their largest values, then the shift. A form is taken if its error is `LEAST_ADVANTAGE`
    times smaller than that of the best plan, since it is chosen among more; that plan stays in reserve. A shift is for
    the range of activations: where they stay in float, the bias correction does what it would do.

    Args:
        plans: best first.
        allowed: what may be changed, as far as the adaptor can.
        alphas: those that were asked for; exponents of activations stay among them.
        hopeless: gets the forms that came out `HOPELESS` times as far as the best one.
        expired: once true, nothing more is compared.
        advance: called after each comparison.
    """
    able = adaptor.smoothing_forms() if isinstance(adaptor, SupportsSmoothingForms) else ()
    free = [name for name in allowed if name in able and (name != "shift" or rounds_activations(space))]
    start = plans[0]
    if not free or start.output_error is None or all(alpha is None for alpha in start.alphas.values()):
        return tuple(plans)
    errors = OutputErrors(adaptor, model, expired=expired, advance=advance)

    def measured(form: _Form) -> SmoothingPlan:
        plan = form.of(start)
        return replace(plan, output_error=errors.of(space.tune_cfg(plan.assignment(space, sampling_size))))

    form, best = _Form(), start
    if "exponents" in free:
        known = {round(alpha, 10) for alpha in alphas}
        form, best = _walk(start, measured, known)
    changes: dict[FormName, dict[str, Any]] = {"norm": {"weight": "norm"}, "shift": {"shifted": True}}
    for name, change in changes.items():
        other = replace(form, changes={**form.changes, **change})
        if name in free and other.of(start).forms != form.of(start).forms:
            plan = measured(other)
            if hopeless is not None and best.is_closer_than(plan, HOPELESS):
                hopeless.add(name)
            if plan.is_closer_than(best):
                form, best = other, plan
    if best is start:
        return tuple(plans)
    if not best.is_closer_than(start, LEAST_ADVANTAGE):
        return (*plans, replace(best, required=False, note=None))
    return (best, replace(start, required=False, note=None), *plans[1:])


def planned_forms(allowed: Collection[FormName]) -> int:
    """Upper bound for the number of calls of `advance` by `plan_forms`, for a progress bar."""
    return sum(MOST_EXPONENTS if name == "exponents" else 1 for name in allowed)


def _walk(
    start: SmoothingPlan, measured: Callable[[_Form], SmoothingPlan], alphas: Collection[float]
) -> tuple[_Form, SmoothingPlan]:
    """The best exponents: step by step in one direction after the other, as long as any of them comes closer."""
    form, best, seen = _Form(), start, {_Form().key(start)}
    has_moved = True
    while has_moved:
        has_moved = False
        for alpha, beta in _DIRECTIONS:
            while len(seen) <= MOST_EXPONENTS:
                other = replace(form, alpha=form.alpha + alpha, beta=form.beta + beta)
                if other.key(start) in seen or not other.moves_to(alphas, start):
                    break
                seen.add(other.key(start))
                plan = measured(other)
                if not plan.is_closer_than(best):
                    break
                form, best, has_moved = other, plan, True
    return form, best


def _in_range(exponent: float) -> float:
    return round(min(max(exponent, 0.0), 1.0), 10)
