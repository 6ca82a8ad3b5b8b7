"""Which SmoothQuant alphas the whole model gets: off, one for all, or one a layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments import AutoAlphaArgs, SmoothQuantArgs
from inc_autotune.core.block_search import search_blocks
from inc_autotune.core.output_error import output_error
from inc_autotune.core.smoothquant import AlphaSearchResult, InputGroup, alpha_grid, search_alpha
from inc_autotune.core.space import TuningSpace

logger = logging.getLogger(__name__)

GLOBAL_CANDIDATES = 3
"""How many global alphas are compared at the model's output: the best by local loss."""

SCORED_OUTPUT_CHANNELS = 1024
"""Output channels of each operator that score an alpha. On MiniLM and a small GPT 512 choose as well as all of them (48
of 49 alphas, 0.02 % more error), 256 do not; it is large models that this makes several times faster."""


@dataclass(frozen=True)
class SmoothingPlan:
    """Alphas for the whole model.

    Args:
        name: `off`, `alpha 0.7`, `layer-wise` or `block-wise`.
        alphas: alpha by unit name; a unit that is not named is not smoothed.
        required: whether it must be tried before units fall back to fp32.
        output_error: relative squared error at the model's output on held-out samples, where measured.
    """

    name: str
    alphas: Mapping[str, float | None]
    required: bool = True
    output_error: float | None = None


OFF = SmoothingPlan("off", {})


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

    A number or a list of alphas is taken as it stands. "auto" searches one alpha a layer by local error (one a block
    by the block's error, with `enable_blockwise_loss`), then compares that, the best global alphas and no smoothing
    at the model's output, since the sum of local errors does not decide the end metric: the best of them is required,
    the others stay in reserve.

    Args:
        arguments: what the user asked for; None forbids smoothing.
        expired: once true, the search stops and the plans found so far are returned.
        advance: called after each searched group and each compared plan.
    """
    groups = () if arguments is None else adaptor.input_groups(space.units, sampling_size)
    if arguments is None or not groups:
        return (OFF,)
    if isinstance(arguments.alpha, float):
        return (_uniform(groups, arguments.alpha),)
    if isinstance(arguments.alpha, tuple):
        return tuple(_uniform(groups, alpha) for alpha in arguments.alpha)
    options = arguments.auto_alpha_args
    grid = alpha_grid(options.alpha_min, options.alpha_max, options.alpha_step)
    searches = _search_groups(adaptor, groups, grid, options, expired, advance)
    searched = _layer_wise(searches)
    if options.enable_blockwise_loss:
        names = [group.name for group in groups]
        alphas = search_blocks(
            adaptor, model, space, names, grid, sampling_size, init_alpha=options.init_alpha, expired=expired
        )
        if not alphas:
            logger.warning("enable_blockwise_loss has no effect: the model has no repeated blocks")
        searched = replace(searched, name="block-wise", alphas={**searched.alphas, **alphas}) if alphas else searched
    candidates = [searched, *_best_uniform(groups, searches), OFF]
    return _compare(adaptor, model, space, candidates, sampling_size, expired, advance)


def planned_steps(arguments: SmoothQuantArgs | None, space: TuningSpace) -> int | None:
    """How often `plan_smoothing` will advance at most, for a progress bar."""
    if arguments is None or arguments.alpha != "auto":
        return None
    return len(space.units) + GLOBAL_CANDIDATES + 2


def _uniform(groups: Sequence[InputGroup], alpha: float) -> SmoothingPlan:
    return SmoothingPlan(f"alpha {alpha:g}", {group.name: alpha for group in groups})


def _search_groups(
    adaptor: Adaptor,
    groups: Sequence[InputGroup],
    grid: Sequence[float],
    options: AutoAlphaArgs,
    expired: Callable[[], bool],
    advance: Callable[[], object],
) -> dict[str, AlphaSearchResult]:
    product = adaptor.integer_product()
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
            output_channels=SCORED_OUTPUT_CHANNELS,
        )
        advance()
    return searches


def _layer_wise(searches: Mapping[str, AlphaSearchResult]) -> SmoothingPlan:
    """Each group at its own best alpha, or unsmoothed where no alpha beats that."""
    alphas = {
        name: search.alpha if search.losses[search.alpha] < search.loss_off else None
        for name, search in searches.items()
    }
    return SmoothingPlan("layer-wise", alphas)


def _best_uniform(groups: Sequence[InputGroup], searches: Mapping[str, AlphaSearchResult]) -> tuple[SmoothingPlan, ...]:
    """The global alphas with the smallest sum of local losses."""
    if not searches:
        return ()
    totals: dict[float, float] = {}
    for search in searches.values():
        for alpha, loss in search.losses.items():
            totals[alpha] = totals.get(alpha, 0.0) + loss
    best = sorted(totals, key=lambda alpha: (totals[alpha], alpha))[:GLOBAL_CANDIDATES]
    return tuple(_uniform(groups, alpha) for alpha in best)


def _compare(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    candidates: Sequence[SmoothingPlan],
    sampling_size: int,
    expired: Callable[[], bool],
    advance: Callable[[], object],
) -> tuple[SmoothingPlan, ...]:
    """Order candidates by their error at the model's output; unmeasured ones keep their place behind."""
    measured: list[SmoothingPlan] = []
    unmeasured: list[SmoothingPlan] = []
    for plan in candidates:
        assignment = space.default(sampling_size, plan.alphas)
        error = None if expired() else output_error(adaptor, space.tune_cfg(assignment), model)
        advance()
        (unmeasured if error is None else measured).append(replace(plan, output_error=error))
    ordered = sorted(measured, key=lambda plan: plan.output_error or 0.0) + unmeasured
    return tuple(replace(plan, required=index == 0) for index, plan in enumerate(ordered))
