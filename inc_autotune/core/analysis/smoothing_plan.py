"""SmoothQuant alphas for the whole model: none, one for all layers, or one per layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.block_search import search_blocks
from inc_autotune.core.analysis.output_error import OutputErrors
from inc_autotune.core.arguments import AutoAlphaArgs, SmoothQuantArgs
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm
from inc_autotune.core.quantization import AlphaSearchResult, InputGroup, alpha_grid, rows_repeat, search_alpha
from inc_autotune.core.space import Assignment, TuningSpace, Unit
from inc_autotune.core.vocabulary import FormName

logger = logging.getLogger(__name__)

SCORED_OUTPUT_CHANNELS = 1024
"""Output channels of each operator by which an alpha is scored. On MiniLM and a small GPT this many channels choose the
same alpha as all channels in 49 of 50 cases, 256 channels in 42. Large models become several times faster."""

SCORED_IN_LARGE_MODELS = 256
"""The same where operators have more than `LARGE_MODEL` weights to be smoothed. There this search would take as long as
comparing ten plans at the output, and the comparison decides."""

LARGE_MODEL = 1 << 25
"""Three times the weights of MiniLM."""

MISSTEPS = 2
"""This many alphas in a row without an improvement on the held-out samples end the walk for the best alpha. A single
one does not: the errors of models that pool their outputs have small local minima."""

STEEP = 1.25
"""An alpha with more than this many times the best error so far ends the walk at once: that is no small bump."""

LEAST_ADVANTAGE = 1.03
"""The error of a plan with one alpha per layer must be this many times smaller than that of a plan with one alpha for
all layers. It is chosen among more candidates, so a smaller advantage is more easily chance: with a TensorFlow model
the layer-wise plan won by 1 % here and lost by 8 % on new samples."""

SMOOTHING_ADVANTAGE = 1.1
"""The error of a smoothed plan must be this many times smaller than without smoothing. It is the best of a dozen alphas
on a few samples: in a net of convolutions, where it can smooth the last layer alone, it won by up to 8 % here and lost
by a tenth to four fifths on new samples. Transformers win by more."""


@runtime_checkable
class SupportsSmoothing(Protocol):
    """An adaptor with operators that SmoothQuant can smooth."""

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        """The units that SmoothQuant may smooth, by unit name, with statistics, weights and default configurations."""


@runtime_checkable
class SupportsIntegerProduct(Protocol):
    """An adaptor whose framework multiplies integers faster than NumPy or torch multiply float32."""

    def integer_product(self) -> Callable[[Any, Any], Any] | None:
        """A fast product of integer-valued arrays [rows, in] and [out, in]; None if this machine has none."""


@dataclass(frozen=True)
class SmoothingPlan:
    """Alphas for the whole model.

    Args:
        name: `off`, `alpha 0.7`, `layer-wise` or `block-wise`.
        alphas: alpha by unit name; a unit that is not named is not smoothed.
        required: whether the plan must be tried before units fall back to fp32.
        output_error: relative squared error at the model's output on held-out samples; None if it is not measured.
        note: for the user, about the plan.
        rounded: names of units whose weights are rounded by the second moment of their input.
        forms: how scales are made of alphas, by unit name; of a unit that is not named, as SmoothQuant makes them.
    """

    name: str
    alphas: Mapping[str, float | None]
    required: bool = True
    output_error: float | None = None
    note: str | None = None
    rounded: Sequence[str] = ()
    forms: Mapping[str, SmoothingForm] = field(default_factory=dict)

    def is_closer_than(self, other: SmoothingPlan, advantage: float = 1.0) -> bool:
        """Whether its output error is so many times smaller; False where one of the two is not measured."""
        if self.output_error is None or other.output_error is None:
            return False
        return self.output_error * advantage < other.output_error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SmoothingPlan:
        """Inverse of `dataclasses.asdict`."""
        forms = {name: SmoothingForm(**form) for name, form in values.get("forms", {}).items()}
        return cls(**{**values, "forms": forms})

    def assignment(self, space: TuningSpace, sampling_size: int) -> Assignment:
        """Every unit at its first option, smoothed and rounded by this plan."""
        return space.default(sampling_size, self.alphas, self.rounded, self.forms)


OFF = SmoothingPlan("off", {})


def uniform_name(alpha: float, form: SmoothingForm = SMOOTHQUANT) -> str:
    """The name of a plan with one alpha and one form for all units."""
    return ", ".join(filter(None, [f"alpha {alpha:g}", form.describe()]))


def plan_smoothing(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    arguments: SmoothQuantArgs | None,
    sampling_size: int,
    *,
    expired: Callable[[], bool] = lambda: False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[SmoothingPlan, ...]:
    """The plans to try, best first.

    A number or a list of alphas is used as given. "auto" searches one alpha per layer by local error (with
    `enable_blockwise_loss` one per block by the error of the block). Then it compares these alphas, the best global
    alpha and no smoothing at the model's output, since the sum of local errors does not decide the end metric. The best
    of these plans is required, the others stay in reserve. Inputs whose rows repeat each other are not smoothed then.

    The best global alpha is found at the output too, by walking down and up the grid from the alpha with the smallest
    sum of local losses. Local losses are measured on samples that also made the ranges, so they favour large alphas,
    which fit each channel to these samples.

    Args:
        arguments: the user's; None forbids smoothing.
        expired: once true, the search stops: groups that are not searched yet get `init_alpha`, and plans that are not
            compared yet follow in reserve.
        advance: called after each searched group and each compared plan.

    Raises:
        QuantizationError: no plan can be built and run.
    """
    groups: Sequence[InputGroup] = ()
    if arguments is not None and isinstance(adaptor, SupportsSmoothing):
        groups = adaptor.input_groups(space.units, sampling_size)
    if arguments is None or not groups:
        return (replace(OFF, note=_unheeded(arguments)),)
    if isinstance(arguments.alpha, float):
        return (_uniform(groups, arguments.alpha),)
    if isinstance(arguments.alpha, tuple):
        return tuple(_uniform(groups, alpha) for alpha in arguments.alpha)
    every, groups = groups, [group for group in groups if not rows_repeat(group.statistics)]
    note = _left_out([group.name for group in every if group not in groups])
    if not groups:
        return (replace(OFF, note=note),)
    options = arguments.auto_alpha_args
    grid = alpha_grid(options.alpha_min, options.alpha_max, options.alpha_step)
    searches = _search_groups(adaptor, groups, grid, options, expired, advance)
    searched = _layer_wise(groups, searches, options.init_alpha)
    if options.enable_blockwise_loss:
        names = [group.name for group in groups]
        alphas = search_blocks(
            adaptor, model, space, names, grid, sampling_size, init_alpha=options.init_alpha, expired=expired
        )
        # If time has run out, blocks may have been left out.
        if not alphas and not expired():
            logger.warning("enable_blockwise_loss has no effect: the model has no repeated blocks")
        searched = replace(searched, name="block-wise", alphas={**searched.alphas, **alphas}) if alphas else searched

    errors = OutputErrors(adaptor, model, expired=expired, advance=advance)

    def measured(plan: SmoothingPlan) -> SmoothingPlan:
        return replace(plan, output_error=errors.of(space.tune_cfg(plan.assignment(space, sampling_size))))

    uniform = [_best_uniform(groups, grid, searches, measured)] if searches else []
    plans = _best_first([measured(searched), *uniform, measured(OFF)])
    if errors.failures and all(plan.output_error == math.inf for plan in plans):
        raise errors.failures[-1]
    return (replace(plans[0], note=note), *plans[1:])


def searched_alphas(arguments: SmoothQuantArgs | None) -> Sequence[float]:
    """The alphas that a search chooses from, in increasing order; empty where there is none."""
    if arguments is None or arguments.alpha != "auto":
        return ()
    options = arguments.auto_alpha_args
    return alpha_grid(options.alpha_min, options.alpha_max, options.alpha_step)


def searched_forms(arguments: SmoothQuantArgs | None) -> Sequence[FormName]:
    """What a search may change in the form of smoothing; empty where there is none."""
    return arguments.auto_alpha_args.forms if arguments is not None and arguments.alpha == "auto" else ()


def planned_steps(arguments: SmoothQuantArgs | None, space: TuningSpace) -> int | None:
    """Upper bound for the number of calls of `advance` by `plan_smoothing`, for a progress bar; None: not known."""
    if arguments is None or arguments.alpha != "auto":
        return None
    options = arguments.auto_alpha_args
    return len(space.units) + len(alpha_grid(options.alpha_min, options.alpha_max, options.alpha_step)) + 2


def _uniform(groups: Sequence[InputGroup], alpha: float) -> SmoothingPlan:
    return SmoothingPlan(uniform_name(alpha), {group.name: alpha for group in groups})


def _search_groups(
    adaptor: Adaptor,
    groups: Sequence[InputGroup],
    grid: Sequence[float],
    options: AutoAlphaArgs,
    expired: Callable[[], bool],
    advance: Callable[[], object],
) -> dict[str, AlphaSearchResult]:
    product = adaptor.integer_product() if isinstance(adaptor, SupportsIntegerProduct) else None
    weights = sum(math.prod(weight.shape) for group in groups for weight in group.weights())
    channels = SCORED_OUTPUT_CHANNELS if weights <= LARGE_MODEL else SCORED_IN_LARGE_MODELS
    searches = {}
    for group in groups:
        if expired():
            break
        searches[group.name] = search_alpha(
            group,
            grid,
            init_alpha=options.init_alpha,
            shared_criterion=options.shared_criterion,
            framework=adaptor.framework,
            integer_product=product,
            output_channels=channels,
        )
        advance()
    return searches


def _layer_wise(
    groups: Sequence[InputGroup], searches: Mapping[str, AlphaSearchResult], init_alpha: float
) -> SmoothingPlan:
    """A plan with the best alpha of each group, and no smoothing of groups that no alpha improves by `least_gain`.

    Groups that were not searched get `init_alpha`.
    """
    if not searches:
        return _uniform(groups, init_alpha)
    least_gain = {group.name: group.least_gain for group in groups}
    found = {
        name: search.alpha if search.loss_off > least_gain[name] * search.losses[search.alpha] else None
        for name, search in searches.items()
    }
    return SmoothingPlan("layer-wise", {group.name: found.get(group.name, init_alpha) for group in groups})


def _best_uniform(
    groups: Sequence[InputGroup],
    grid: Sequence[float],
    searches: Mapping[str, AlphaSearchResult],
    measured: Callable[[SmoothingPlan], SmoothingPlan],
) -> SmoothingPlan:
    """The best global alpha, by a walk in both directions that starts at the alpha with the smallest local loss."""
    totals = [math.fsum(search.losses[alpha] for search in searches.values()) for alpha in grid]
    start = totals.index(min(totals))

    def plan_of(index: int) -> SmoothingPlan:
        return measured(_uniform(groups, grid[index]))

    def walk(best: SmoothingPlan, step: int) -> SmoothingPlan:
        index, missteps = start + step, 0
        while best.output_error is not None and missteps < MISSTEPS and 0 <= index < len(grid):
            plan = plan_of(index)
            if plan.output_error is None:
                break
            if STEEP * best.output_error < plan.output_error < math.inf:  # a failure says nothing about the next one
                break
            missteps = 0 if plan.output_error < best.output_error else missteps + 1
            best, index = best if missteps else plan, index + step
        return best

    return walk(walk(plan_of(start), -1), 1)


def _unheeded(arguments: SmoothQuantArgs | None) -> str | None:
    """A note that nothing can be smoothed, if the user set `smoothquant_args`."""
    if arguments is None or not arguments.model_fields_set:
        return None
    note = "smoothquant_args has no effect: the model has no operator that can be smoothed"
    logger.warning("%s", note)
    return note


def _left_out(names: Sequence[str]) -> str | None:
    """A note on groups that are not smoothed because of their data, if there are any."""
    if not names:
        return None
    return (
        f"not smoothed, since most of their calibration rows repeat a few: {len(names)} inputs, the first is that of "
        f"{names[0]!r}. Where a model writes the same word again and again, give it more to say, or give alpha"
    )


def _best_first(plans: Sequence[SmoothingPlan]) -> tuple[SmoothingPlan, ...]:
    """Plans by error at the output, the first one required; plans without an error follow in their order.

    What has more to choose from has to win by more, since the best of many is more likely chance.
    """

    def error(plan: SmoothingPlan) -> float:
        if plan.output_error is None:
            return math.inf
        alphas = set(plan.alphas.values())
        needed = LEAST_ADVANTAGE if len(alphas) > 1 else 1.0
        return plan.output_error * needed * (1.0 if alphas <= {None} else SMOOTHING_ADVANTAGE)

    ordered = sorted(plans, key=error)
    return tuple(replace(plan, required=index == 0) for index, plan in enumerate(ordered))
