"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from functools import partial

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import ActivationStatistics, Statistics, input_means, smoothed_range
from inc_autotune.graphs import OperatorCalibration, smoothing_scales
from inc_autotune.ort_ext.calibration.grid_tensors import find_grid
from inc_autotune.ort_ext.calibration.plan import FRAMEWORK, QuantizationPlan
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator, Operators, weight_matrix
from inc_autotune.ort_ext.target import GraphForm


def input_groups(operators: Operators) -> list[list[str]]:
    """Names of the linear operators that read the same tensor; other operators stand alone."""
    groups: dict[str, list[str]] = {}
    for name, operator in operators.found.items():
        groups.setdefault(operator.input if operator.is_linear else f"{name} alone", []).append(name)
    return list(groups.values())


def channel_axis(operator: Operator) -> int | None:
    """The axis of the channels that the weight multiplies, in the operator's input; None where there is none."""
    if operator.is_linear:
        return -1
    return 1 if operator.type in ("Conv", "ConvTranspose") else None


def can_correct_weight(operator: Operator, config: OpConfig) -> bool:
    """Whether an operator's weight is rounded as a whole, to integers that its kernel multiplies."""
    if operator.is_linear:
        return config.approach in ("static", "dynamic")
    return operator.type in ("Conv", "ConvTranspose") and config.approach == "static"


def can_correct_bias(operator: Operator, config: OpConfig) -> bool:
    """Whether another bias costs nothing, in every form of a model: a product without one would need an addition."""
    return can_correct_weight(operator, config) and (operator.bias is not None or not operator.is_linear)


def make_plan(
    graph: Graph,
    operators: Operators,
    configs: Mapping[str, OpConfig],
    statistics: Statistics,
    form: GraphForm,
    *,
    unfit: Container[str],
    reduced: frozenset[str],
    folding: bool,
    activations: bool,
) -> QuantizationPlan:
    """The plan for one configuration.

    Args:
        graph: the fp32 model.
        operators: of that graph.
        configs: by name of the operators that leave fp32.
        statistics: of the inputs of all operators, and of the tensors they may put on a grid.
        form: how the model will be written.
        unfit: names of the tensors that are on no grid of their own, see `Calibration.unfit`.
        reduced: names of the operators whose weights get one bit less.
        folding: whether smoothing scales are folded where that is exact.
        activations: whether Sigmoid and Mul between convolutions are computed in integers.
    """
    scales = smoothing_scales(
        operators.found, configs, statistics, partial(weight_of, graph), partial(group_weights, graph)
    )
    calibrations = {}
    linear_inputs = {each.input for each in operators.found.values() if each.is_linear}
    for name, config in configs.items():
        operator, scale, limits, means = operators.found[name], scales.get(name), None, None
        if config.approach == "static":
            limits = smoothed_range(statistics[operator.input], scale, config.activation, framework=FRAMEWORK)
        # A tensor that a linear operator reads, too, has the means of other channels.
        has_means = operator.is_linear or operator.input not in linear_inputs
        if "fast_bias_correction" in config.corrections and has_means and can_correct_bias(operator, config):
            means = input_means(statistics[operator.input], scale, config.activation, limits, framework=FRAMEWORK)
        calibrations[name] = OperatorCalibration(limits, scale, reduce_range=name in reduced, input_means=means)
    static = [operators.found[name] for name, config in configs.items() if config.approach == "static"]
    known = {name for name in statistics if name not in unfit}
    grid = find_grid(graph, static, form, known, activations=activations)
    ranges = {
        tensor: _range(statistics[tensor], configs[place.owner])
        for tensor, place in grid.items()
        if place.same_as is None
    }
    return QuantizationPlan(configs, calibrations, ranges, folding)


def group_weights(graph: Graph, operators: Sequence[Operator]) -> list[FloatArray]:
    """The weights of linear operators as [out_features, in_features]."""
    return [weight_matrix(operator, graph.constant(operator.weight)) for operator in operators]


def weight_of(graph: Graph, operator: Operator) -> Hashable:
    """The same for operators that multiply by the same matrix."""
    return graph.origin(operator.weight), operator.transposed


def _range(statistics: ActivationStatistics, config: OpConfig) -> tuple[float, float]:
    return smoothed_range(statistics, None, config.activation, framework=FRAMEWORK)
