"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import group_weight_absmax, smoothed_range, smoothing_scale
from inc_autotune.core.quantization.split_statistics import Statistics
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.ort_ext.calibration.grid_tensors import find_grid
from inc_autotune.ort_ext.calibration.plan import FRAMEWORK, OperatorCalibration, QuantizationPlan
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.operators.discovery import Operator, Operators, weight_matrix
from inc_autotune.ort_ext.target.forms import GraphForm


def input_groups(operators: Operators) -> list[list[str]]:
    """Names of the linear operators that read the same tensor; other operators stand alone."""
    groups: dict[str, list[str]] = {}
    for name, operator in operators.found.items():
        groups.setdefault(operator.input if operator.is_linear else f"{name} alone", []).append(name)
    return list(groups.values())


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
    """
    scales = _smoothing_scales(graph, operators, configs, statistics)
    calibrations = {}
    for name, config in configs.items():
        limits = None
        if config.approach == "static":
            each = statistics[operators.found[name].input]
            limits = smoothed_range(each, scales.get(name), config.activation, framework=FRAMEWORK)
        calibrations[name] = OperatorCalibration(limits, scales.get(name))
    static = [operators.found[name] for name, config in configs.items() if config.approach == "static"]
    grid = find_grid(graph, static, form, {name for name in statistics if name not in unfit})
    ranges = {
        tensor: _range(statistics[tensor], configs[place.owner])
        for tensor, place in grid.items()
        if place.same_as is None
    }
    return QuantizationPlan(configs, calibrations, ranges, reduced, folding)


def group_weights(graph: Graph, operators: Sequence[Operator]) -> list[FloatArray]:
    """The weights of linear operators as [out_features, in_features]."""
    return [weight_matrix(operator, graph.constant(operator.weight)) for operator in operators]


def shared_weights(graph: Graph, operators: Operators) -> frozenset[str]:
    """Names of the linear operators whose weight another one reads too, with another input."""
    inputs: dict[Hashable, set[str]] = {}
    linear = [each for each in operators.found.values() if each.is_linear]
    for each in linear:
        inputs.setdefault(_weight(graph, each), set()).add(each.input)
    return frozenset(each.name for each in linear if len(inputs[_weight(graph, each)]) > 1)


def _smoothing_scales(
    graph: Graph, operators: Operators, configs: Mapping[str, OpConfig], statistics: Statistics
) -> dict[str, FloatArray]:
    """One scale for all operators that read the same tensor, or the same weight, and are configured alike.

    Layers that share a weight so go on sharing it.
    """
    scales: dict[str, FloatArray] = {}
    alike: dict[OpConfig, list[Operator]] = {}
    for name, config in configs.items():
        if config.alpha is not None and operators.found[name].is_linear:
            alike.setdefault(config, []).append(operators.found[name])
    for config, smoothed in alike.items():
        assert config.alpha is not None
        for members in _connected(graph, smoothed):
            weights = group_weights(graph, list({_weight(graph, each): each for each in members}.values()))
            inputs = dict.fromkeys(each.input for each in members)
            activation = np.max([statistics[tensor].channel_absmax for tensor in inputs], axis=0)
            scale: FloatArray = smoothing_scale(activation, group_weight_absmax(weights), config.alpha)
            scales |= dict.fromkeys((each.name for each in members), scale)
    return scales


def _connected(graph: Graph, operators: Sequence[Operator]) -> list[list[Operator]]:
    """Linear operators in groups that have no tensor and no weight in common with each other."""
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while parents.setdefault(key, key) != key:
            parents[key] = key = parents[parents[key]]
        return key

    for each in operators:
        parents[root(_weight(graph, each))] = root(each.input)
    groups: dict[Hashable, list[Operator]] = {}
    for each in operators:
        groups.setdefault(root(each.input), []).append(each)
    return list(groups.values())


def _weight(graph: Graph, operator: Operator) -> Hashable:
    """The same for operators that multiply by the same matrix."""
    return graph.origin(operator.weight), operator.transposed


def _range(statistics: ActivationStatistics, config: OpConfig) -> tuple[float, float]:
    return smoothed_range(statistics, None, config.activation, framework=FRAMEWORK)
