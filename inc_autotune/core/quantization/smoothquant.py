"""SmoothQuant: ranges of smoothed inputs, and the search for the alpha of each group of operators that share one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import array_api_compat
import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.errors import ArgumentError, CalibrationError, did_you_mean
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.histogram import Histogram, clipping_range
from inc_autotune.core.quantization.operator_loss import (
    IntegerProduct,
    OperatorLoss,
    QuantizedRows,
    quantize_each_row,
    quantize_rows,
)
from inc_autotune.core.quantization.smoothing_scale import check_exponent, group_weight_absmax, smoothing_scale
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.vocabulary import MOST_ALPHAS, SHARED_CRITERIA, listing

_LARGEST_ACTIVATION = 1e38  # the width of a range from -1e38 to 1e38 is within float32
_TIE = 1e-6  # relative; float32 sums differ by this much when rows come in another order


@dataclass(frozen=True, eq=False)
class InputGroup:
    """Operators that read the same activation and so share one smoothing scale.

    Args:
        name: name of the group.
        operators: names of the operators.
        statistics: statistics of the shared input, with sampled rows.
        weights: gives the weights [out_features, in_features] in the order of `operators`; called once a search.
        configs: how each operator will be quantized.
        reduce_range: whether weights get one bit less.
        folds: statistics to score alphas with, in place of `statistics`. The ranges of a fold are from one part of the
            calibration data and its rows from another part, so an alpha that overfits the ranges has a higher loss.
        least_gain: with layer-wise alphas, smooth the group only if smoothing divides its loss by at least this factor,
            where smoothing costs time; 1: smooth wherever the loss falls.
    """

    name: str
    operators: tuple[str, ...]
    statistics: ActivationStatistics
    weights: Callable[[], Sequence[AnyNamespaceArray]]
    configs: tuple[OpConfig, ...]
    reduce_range: bool = False
    folds: tuple[ActivationStatistics, ...] = ()
    least_gain: float = 1.0


@dataclass(frozen=True, eq=False)
class AlphaSearchResult:
    """What the alpha search of one group found.

    Args:
        alpha: the best alpha by the requested shared criterion.
        losses: loss of the group under the requested criterion, by alpha.
        loss_off: loss of the group under the requested criterion, without smoothing.
        operator_losses: loss of each operator by alpha.
        operator_losses_off: loss of each operator without smoothing.
        best_alpha: the best alpha by each shared criterion.
    """

    alpha: float
    losses: Mapping[float, float]
    loss_off: float
    operator_losses: Mapping[str, Mapping[float, float]]
    operator_losses_off: Mapping[str, float]
    best_alpha: Mapping[str, float]


def alpha_grid(minimum: float, maximum: float, step: float) -> tuple[float, ...]:
    """Alphas from `minimum` to `maximum`, both included, rounded to ten decimals.

    Args:
        minimum: in [0, 1], a float or an integer.
        maximum: in [minimum, 1], a float or an integer; part of the grid even if no multiple of `step` hits it.
        step: > 0, a float or an integer.

    Raises:
        ArgumentError: an argument is out of range, or the grid would exceed `MOST_ALPHAS`.
    """
    check_exponent("alpha_min", minimum)
    check_exponent("alpha_max", maximum)
    if minimum > maximum:
        raise ArgumentError(f"alpha_min={minimum!r}, alpha_max={maximum!r}: alpha_min must not exceed alpha_max.")
    if not _is_number(step) or not 0 < step < math.inf:
        raise ArgumentError(f"alpha_step={step!r}: not a step.\nAllowed: a number > 0, such as 0.1.")
    # The allowance of 1e-9 keeps the last step of (0.3 - 0.0) / 0.1 = 2.999...
    steps = math.floor((maximum - minimum) / step + 1e-9)
    if steps > MOST_ALPHAS:
        raise ArgumentError(
            f"alpha_step={step!r}: gives {steps + 1} alphas, at most {MOST_ALPHAS} are searched. Use a larger step."
        )
    grid = {round(float(minimum + index * step), 10) for index in range(steps + 1)}
    return tuple(sorted({min(alpha, float(maximum)) for alpha in grid} | {float(maximum)}))


def smoothed_range(
    statistics: ActivationStatistics,
    scale: AnyNamespaceArray | None,
    config: TensorConfig,
    *,
    framework: str = "pytorch",
) -> tuple[float, float]:
    """Per-tensor range of an activation after it was divided by `scale`.

    Args:
        statistics: of the activation before smoothing.
        scale: smoothing scale [C]; None: not smoothed.
        config: `minmax` (the default) is exact: the channels' extremes over all calibration tokens, divided by the
            scale. `kl`, `percentile` and `mse` clip that range by a distribution: the histogram if there is one and
            `scale` is None, else the sampled rows, since a histogram of the tensor cannot be rescaled by channel.
        framework: the framework with the scale formula that `mse` uses.

    Raises:
        CalibrationError: nothing was seen, or the algorithm needs rows or a histogram and there are none.
        ArgumentError: unknown algorithm, dtype or scheme.
    """
    algorithm, scheme = config.algorithm or "minmax", config.scheme or "asym"
    if scale is None and (algorithm == "minmax" or statistics.histogram is not None or statistics.sampled_rows is None):
        return statistics.activation_range(algorithm, config.dtype, scheme, framework=framework)
    minimum, maximum = statistics.channel_minimum, statistics.channel_maximum
    xp = array_api_compat.array_namespace(minimum)
    if scale is not None:
        minimum, maximum = minimum / scale, maximum / scale
    lowest, highest = float(xp.min(minimum)), float(xp.max(maximum))
    histogram = Histogram()
    if algorithm != "minmax":
        rows = _rows(statistics)
        rows = rows if scale is None else rows / scale
        histogram.update(np.asarray(array_api_compat.to_device(rows, "cpu")))
    return clipping_range(
        histogram, lowest, highest, algorithm=algorithm, dtype=config.dtype, scheme=scheme, framework=framework
    )


def choose_alpha(
    operator_losses: Mapping[str, Mapping[float, float]], shared_criterion: str = "mean", init_alpha: float = 0.5
) -> float:
    """The one alpha for operators that must share it: a group, a block, or the whole model.

    Args:
        operator_losses: loss by alpha of each operator, all over the same alphas.
        shared_criterion: what is minimised: the `min`, `mean` or `max` of the operators' losses.
        init_alpha: of equally good alphas the nearest to this one wins, then the smaller.

    Raises:
        ArgumentError: unknown criterion, or no losses.
    """
    losses = _shared_losses(operator_losses, shared_criterion)
    if not losses:
        raise ArgumentError("operator_losses: holds no alpha to choose from.")
    limit = min(losses.values()) * (1 + _TIE)
    best = [alpha for alpha, loss in losses.items() if loss <= limit]
    return min(best, key=lambda alpha: (round(abs(alpha - init_alpha), 10), alpha))


def search_alpha(
    group: InputGroup,
    alphas: Sequence[float],
    *,
    init_alpha: float = 0.5,
    shared_criterion: str = "mean",
    framework: str = "pytorch",
    integer_product: IntegerProduct | None = None,
    output_channels: int | None = None,
) -> AlphaSearchResult:
    """Score every alpha, and no smoothing, by the error at the group's operators.

    The loss of an operator is `||Y_q - Y||^2 / ||Y||^2` over all sampled rows, where `Y = X W^T` is the fp32 operator
    without smoothing and `Y_q` is computed from the smoothed, quantized activation and weight exactly as the
    operator's config says. Ranges are exact; rows only score. With `group.folds` the loss is the mean over them.

    Args:
        group: operators with their weights and the statistics of their input.
        alphas: candidates in [0, 1]; only these can be chosen.
        init_alpha: breaks ties: of equally good alphas (to 1e-6) the nearest to this one wins, then the smaller.
        shared_criterion: the group's loss is the `min`, `mean` or `max` of its operators' losses.
        framework: the framework with the scale formulas.
        integer_product: a fast product of integers, such as an int8 kernel; None: a float32 matmul.
        output_channels: score at most this many, evenly spaced, output channels of each operator whose weight is
            quantized per channel; None: all.

    Raises:
        ArgumentError: unknown criterion, no alphas or one outside [0, 1], or configs that do not fit the group.
        CalibrationError: the group's input was never seen, or has no sampled rows.
    """
    _check_search(alphas, shared_criterion)
    folds = group.folds or (group.statistics,)
    weights = _group_weights(group, _rows(folds[0]).shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 has an infinite loss
        scored = [
            _losses(group, statistics, weights, alphas, framework, integer_product, output_channels)
            for statistics in folds
        ]
    mean = {
        alpha: {name: math.fsum(losses[alpha][name] for losses in scored) / len(scored) for name in group.operators}
        for alpha in scored[0]
    }
    off = mean.pop(None)
    operator_losses = {name: {float(alpha): mean[float(alpha)][name] for alpha in alphas} for name in group.operators}
    best_alpha: dict[str, float] = {
        criterion: choose_alpha(operator_losses, criterion, init_alpha) for criterion in SHARED_CRITERIA
    }
    return AlphaSearchResult(
        alpha=best_alpha[shared_criterion],
        losses=_shared_losses(operator_losses, shared_criterion),
        loss_off=_aggregate(tuple(off.values()), shared_criterion),
        operator_losses=operator_losses,
        operator_losses_off=off,
        best_alpha=best_alpha,
    )


def _losses(
    group: InputGroup,
    statistics: ActivationStatistics,
    weights: Sequence[AnyNamespaceArray],
    alphas: Sequence[float],
    framework: str,
    integer_product: IntegerProduct | None,
    output_channels: int | None,
) -> dict[float | None, dict[str, float]]:
    """Loss of each operator by alpha; None: not smoothed."""
    rows = _rows(statistics)
    activation_absmax, weight_absmax = statistics.channel_absmax, group_weight_absmax(weights)
    operators = {
        name: OperatorLoss(
            rows,
            _scored_channels(weight, config.weight, output_channels),
            config.weight,
            framework=framework,
            reduce_range=group.reduce_range,
            integer_product=integer_product,
        )
        for name, weight, config in zip(group.operators, weights, group.configs, strict=True)
    }
    activations = {name: config.activation for name, config in zip(group.operators, group.configs, strict=True)}

    def losses_at(alpha: float | None) -> dict[str, float]:
        scale = None if alpha is None else smoothing_scale(activation_absmax, weight_absmax, alpha)
        if scale is not None and float((activation_absmax / scale).max()) > _LARGEST_ACTIVATION:
            return dict.fromkeys(operators, math.inf)
        quantized = {
            config: _smoothed_rows(statistics, rows, scale, config, framework)
            for config in dict.fromkeys(activations.values())
        }
        return {name: operator.loss(quantized[activations[name]], scale) for name, operator in operators.items()}

    return {alpha: losses_at(alpha) for alpha in (None, *map(float, alphas))}


def _smoothed_rows(
    statistics: ActivationStatistics,
    rows: AnyNamespaceArray,
    scale: AnyNamespaceArray | None,
    config: TensorConfig,
    framework: str,
) -> QuantizedRows:
    smoothed = rows if scale is None else rows / scale
    if config.is_float:
        return QuantizedRows(smoothed, 1.0, 0, False)
    if config.is_per_token:
        return quantize_each_row(smoothed, config, framework=framework)
    lowest, highest = smoothed_range(statistics, scale, config, framework=framework)
    return quantize_rows(smoothed, lowest, highest, config, framework=framework)


def _rows(statistics: ActivationStatistics) -> AnyNamespaceArray:
    if statistics.sampled_rows is None:
        raise CalibrationError(
            f"{statistics.name}: no rows of its input were sampled.\n"
            "Collect with ActivationStatistics(..., rows=128) and at least one batch with keep_rows=True."
        )
    return statistics.sampled_rows


def _group_weights(group: InputGroup, channels: int) -> list[AnyNamespaceArray]:
    """The weights, without a framework's autograd graph."""
    weights = [weight.detach() if hasattr(weight, "detach") else weight for weight in group.weights()]
    if not len(weights) == len(group.operators) == len(group.configs) > 0:
        raise ArgumentError(
            f"group {group.name!r}: {len(group.operators)} operators, {len(weights)} weights and "
            f"{len(group.configs)} configs; give one weight and one config for each operator."
        )
    for operator, weight in zip(group.operators, weights, strict=True):
        if weight.ndim != 2 or weight.shape[1] != channels:
            raise ArgumentError(
                f"group {group.name!r}: the weight of {operator!r} has shape {tuple(weight.shape)}, "
                f"expected [out_features, {channels}], the channels of the group's input."
            )
    return weights


def _scored_channels(weight: AnyNamespaceArray, config: TensorConfig, output_channels: int | None) -> AnyNamespaceArray:
    """Evenly spaced output channels if every channel is quantized with its own range, else all channels."""
    if output_channels is None or config.granularity == "per_tensor" or weight.shape[0] <= output_channels:
        return weight
    return weight[:: math.ceil(weight.shape[0] / output_channels), :]


def _shared_losses(operator_losses: Mapping[str, Mapping[float, float]], criterion: str) -> dict[float, float]:
    _check_criterion(criterion)
    members = tuple(operator_losses.values())
    alphas = members[0] if members else ()
    return {alpha: _aggregate(tuple(losses[alpha] for losses in members), criterion) for alpha in alphas}


def _aggregate(losses: Sequence[float], criterion: str) -> float:
    if criterion == "mean":
        return math.fsum(losses) / len(losses)
    return min(losses) if criterion == "min" else max(losses)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_criterion(criterion: str) -> None:
    if criterion not in SHARED_CRITERIA:
        raise ArgumentError(
            f"shared_criterion={criterion!r}: unknown criterion.\n"
            f"Allowed: {listing(SHARED_CRITERIA)}.{did_you_mean(criterion, SHARED_CRITERIA)}"
        )


def _check_search(alphas: Sequence[float], shared_criterion: str) -> None:
    _check_criterion(shared_criterion)
    if not alphas:
        raise ArgumentError("alphas=(): nothing to search.\nAllowed: at least one number from 0 to 1.")
    for alpha in alphas:
        check_exponent("alphas", alpha)
