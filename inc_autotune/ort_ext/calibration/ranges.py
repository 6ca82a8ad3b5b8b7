"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from functools import partial

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import ActivationStatistics, Statistics, smoothed_range
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
    for name, config in configs.items():
        limits = None
        if config.approach == "static":
            each = statistics[operators.found[name].input]
            limits = smoothed_range(each, scales.get(name), config.activation, framework=FRAMEWORK)
        calibrations[name] = OperatorCalibration(limits, scales.get(name), reduce_range=name in reduced)
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
