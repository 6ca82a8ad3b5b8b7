"""Sensitivity of units, measured as error at the model's output without any evaluation, and the fallbacks chosen by it.

Reasons and reports call the sensitivity of a unit its harm.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor, Half
from inc_autotune.core.analysis.output_error import (
    SupportsComparison,
    candidate_errors,
    error_or_infinity,
    infinity,
    relative_error,
)
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.core.space import Assignment, TuningSpace, Unit

logger = logging.getLogger(__name__)

ErrorOf = Callable[[Assignment], float | None]
"""The output error of an assignment on held-out samples; None if the framework offers no outputs."""

REMAINING_HARM = 0.1
"""A faster fallback than fp32 is taken if at most this share of a unit's harm remains. Harm is capped at 1, the error
of an unrelated output; else 10 % of an infinite harm would accept every fallback."""

MEASURED_UNITS = 8
"""If gradients estimate the harm of all units, that of the most harmful ones, this many, is measured. On four models
of 20 to 32 units, fallback of the first 1 to 16 units in this order leaves as much error as in the fully measured
order, to 3 % of the whole. Estimating costs as much as measuring 3 to 4 units, so up to twice this number of units are
measured without estimates."""

MISSED_HARM = 3.0
"""Estimates are trusted if the joint harm of the units that were not measured is at most this many times the sum of
their estimates. The ratio is 0.9 to 1.4 on models that int8 suits, 4 on a model with outliers without smoothing."""


@runtime_checkable
class SupportsHalves(SupportsComparison, Protocol):
    """An adaptor that compares candidates and builds some with only the weights or only the activations rounded."""

    def half_quantized(self, tune_cfg: Mapping[str, Any], model: Any, half: Half) -> Any:
        """A candidate with only the weights or only the activations rounded, for `run`; it need not be fast.

        Args:
            tune_cfg: as in `quantize`.
            model: the fp32 model.
            half: what is rounded.

        Returns:
            None if such a candidate cannot be built.
        """


@runtime_checkable
class SupportsGradients(Protocol):
    """An adaptor whose framework has gradients."""

    def gradient_harms(
        self, units: Sequence[Unit], tune_cfg: Mapping[str, Any], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, float] | None:
        """Estimate from gradients, for all units at once, the output error with one unit quantized alone.

        Args:
            units: to be estimated.
            tune_cfg: how the units are quantized; other operators in it do not matter.
            expired: asked between samples; once true, the samples seen so far are used.

        Returns:
            Estimated relative squared error at the model's output, by unit name; None if this model has no gradients.
        """


@dataclass(frozen=True)
class UnitHarm:
    """The output error of the model with one unit quantized.

    Args:
        unit: name of the unit.
        error: relative squared error at the model's output; None if it is not known.
        estimated: whether `error` is an estimate from gradients; else it is measured.
        weight_error: the error with only the unit's weights rounded; None if it is not measured.
        activation_error: the error with only the unit's activations rounded; None if it is not measured.
    """

    unit: str
    error: float | None
    estimated: bool = False
    weight_error: float | None = None
    activation_error: float | None = None

    @property
    def activation_share(self) -> float | None:
        """The share of the harm, from 0 to 1, that comes from rounding activations; None if it is not measured."""
        if self.weight_error is None or self.activation_error is None:
            return None
        both = self.weight_error + self.activation_error
        return self.activation_error / both if both > 0 else None


def rank_units(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    assignment: Assignment,
    *,
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
    error_of: ErrorOf | None = None,
    backwards: bool = False,
) -> tuple[UnitHarm, ...]:
    """Rank the quantized units of `assignment`, the most harmful first.

    A unit is measured by quantizing it alone, as `assignment` has it, and running the model on the held-out
    calibration samples: a short forward pass, no evaluation. If there are more than 16 units and the framework has
    gradients, the harm of all units is estimated from gradients, and only the 8 units with the largest estimates are
    measured. One more forward pass, with all other units quantized, checks the other estimates: if these are too small,
    the next 8 units are measured too, and so on.

    Args:
        expired: asked before each measurement; once true, units keep their estimate, or are ranked last in the model's
            order.
        advance: called after each measurement, for a progress bar.
        error_of: measures the output error of an assignment; None: `error_or_infinity`.
        backwards: measure in the opposite order, so that two processes that share measurements meet in the middle.
    """
    error_of = error_of or _measured(adaptor, model, space)
    names = [unit.name for unit in space.units if assignment.by_unit[unit.name].is_quantized]
    known: dict[str, UnitHarm] = {}
    if len(names) > 2 * MEASURED_UNITS and not expired():
        known = {harm.unit: harm for harm in estimate_harms(adaptor, space, assignment, expired=expired) or ()}

    def measure(units: Sequence[str]) -> None:
        for unit in reversed(units) if backwards else units:
            error = None if expired() else _error_alone(error_of, space, assignment, [unit])
            if error is not None or unit not in known:
                known[unit] = UnitHarm(unit, error)
            advance()

    if not known:
        measure(names)
        return _by_error(known[name] for name in names)
    order = list(known)
    while order:
        measure(order[:MEASURED_UNITS])
        order = order[MEASURED_UNITS:]
        others = [known[name] for name in order]
        if not others or expired() or _are_right(error_of, space, assignment, others):
            break
    return _by_error(known.values())


def estimate_harms(
    adaptor: Adaptor, space: TuningSpace, assignment: Assignment, *, expired: Callable[[], bool] = lambda: False
) -> tuple[UnitHarm, ...] | None:
    """Rank the quantized units of `assignment` by gradients alone; None if the framework has none.

    Args:
        expired: once true, the samples seen so far are used.
    """
    if not isinstance(adaptor, SupportsGradients):
        return None
    units = [unit for unit in space.units if assignment.by_unit[unit.name].is_quantized]
    estimates = adaptor.gradient_harms(units, _compared(space, assignment), expired)
    if estimates is None:
        return None
    return _by_error(UnitHarm(unit.name, estimates[unit.name], estimated=True) for unit in units)


def probe_halves(adaptor: Adaptor, model: Any, space: TuningSpace, assignment: Assignment, harm: UnitHarm) -> UnitHarm:
    """Measure the harm of rounding only a unit's weights, and of rounding only its activations: two forward passes.

    Returns:
        `harm` with both errors; `harm` itself if the unit does not round both, or the adaptor does not build such
        candidates, or they fail.
    """
    if not isinstance(adaptor, SupportsHalves):
        return harm
    config, reference = assignment.by_unit[harm.unit], adaptor.reference_outputs()
    if not reference or config.weight.is_float or config.activation.is_float:
        return harm
    tune_cfg = _compared(space, space.only(assignment, [harm.unit]))
    by_weight = adaptor.half_quantized(tune_cfg, model, "weight")
    by_activation = adaptor.half_quantized(tune_cfg, model, "activation")
    if by_weight is None or by_activation is None:
        return harm
    try:
        with candidate_errors():
            errors = [relative_error(reference, adaptor.run(half)) for half in (by_weight, by_activation)]
    except QuantizationError as error:
        errors = [infinity(error)]
    if not all(map(math.isfinite, errors)):
        return harm
    return replace(harm, weight_error=errors[0], activation_error=errors[1])


def choose_fallback(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    assignment: Assignment,
    harm: UnitHarm,
    error_of: ErrorOf | None = None,
) -> OpConfig:
    """The fallback of a harmful unit: the first of wider weights, dynamic and bf16 that removes most harm; or fp32.

    Weights alone can be wider where rules allow several integer types, of which the smallest is the default.
    Dynamic quantization rounds the weight as before, so it is not tried if that alone does too much harm.

    Args:
        assignment: with the unit quantized.
        harm: from `rank_units` or `probe_halves`; if its error is not known, the fallback is fp32.
        error_of: as in `rank_units`.
    """
    if harm.error is None:
        return FP32
    error_of = error_of or _measured(adaptor, model, space)
    allowed = REMAINING_HARM * min(harm.error, 1.0)
    for option in _fallback_options(space.by_name[harm.unit].options, assignment.by_unit[harm.unit]):
        if option.approach == "dynamic" and harm.weight_error is not None and harm.weight_error > allowed:
            continue
        remaining = _error_alone(error_of, space, assignment.replace({harm.unit: option}), [harm.unit])
        if remaining is not None and remaining <= allowed:
            return option
    return FP32


def _measured(adaptor: Adaptor, model: Any, space: TuningSpace) -> ErrorOf:
    return lambda assignment: error_or_infinity(adaptor, space.tune_cfg(assignment), model)


def _error_alone(error_of: ErrorOf, space: TuningSpace, assignment: Assignment, units: Sequence[str]) -> float | None:
    """The output error with some units as `assignment` has them, and all others in fp32."""
    return error_of(space.only(assignment, units))


def _are_right(error_of: ErrorOf, space: TuningSpace, assignment: Assignment, harms: Sequence[UnitHarm]) -> bool:
    """Whether the joint harm of units is about the sum of their estimates."""
    expected = sum(harm.error or 0.0 for harm in harms)
    found = _error_alone(error_of, space, assignment, [harm.unit for harm in harms])
    if found is None or found <= MISSED_HARM * expected:
        return True
    logger.info("%d units do more harm than was estimated (%.1e, not %.1e)", len(harms), found, expected)
    return False


def _compared(space: TuningSpace, assignment: Assignment) -> dict[str, Any]:
    return {**space.tune_cfg(assignment), "without_held_out": True}


def _by_error(harms: Iterable[UnitHarm]) -> tuple[UnitHarm, ...]:
    """The most harmful first; units of unknown harm last, in the given order."""
    return tuple(sorted(harms, key=lambda harm: -1.0 if harm.error is None else harm.error, reverse=True))


def _fallback_options(options: Sequence[OpConfig], current: OpConfig) -> list[OpConfig]:
    """The first option of each wider integer weight, the first dynamic and the first bf16 one, in this order.

    All but bf16 keep the smoothing and rounding.
    """
    wider: dict[int, OpConfig] = {}
    for option in options:
        if option.is_quantized and option.approach == "weight_only" == current.approach:
            wider.setdefault(integer_type(option.weight.dtype).bits, option)
    bits = integer_type(current.weight.dtype).bits
    more = [option for width, option in sorted(wider.items()) if width > bits]
    dynamic = [option for option in options if option.approach == "dynamic" and current.approach == "static"]
    bf16 = [option for option in options if option.dtype == "bf16"]
    return [option.with_choices_of(current) for option in (*more, *dynamic[:1])] + bf16[:1]
