"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import group_weight_absmax, smoothed_range, smoothing_scale
from inc_autotune.core.quantization.split_statistics import Statistics
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK, OperatorCalibration, QuantizationPlan
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.operators.discovery import DEPTHWISE, Operator, kernel_weight
from inc_autotune.tf_ext.target.choices import GraphChoices


def make_plan(
    graph_of: Mapping[str, Graph],
    operators: Mapping[str, Operator],
    configs: Mapping[str, OpConfig],
    statistics: Statistics,
    choices: GraphChoices,
    is_simulated: Callable[[str, OpConfig], bool],
) -> QuantizationPlan:
    """The plan for one configuration.

    Args:
        graph_of: the graph of each operator.
        operators: by name.
        configs: by name of the operators that leave fp32.
        statistics: of the inputs of all operators, and of the outputs of depthwise convolutions.
        choices: how the model is written.
        is_simulated: whether an operator has no kernel for a configuration.
    """
    scales = _smoothing_scales(graph_of, operators, configs, statistics)
    calibrations = {}
    for name, config in configs.items():
        if not config.is_quantized:
            continue
        operator = operators[name]
        limits = output = None
        if config.approach == "static":
            limits = smoothed_range(
                statistics[operator.input], scales.get(name), config.activation, framework=FRAMEWORK
            )
        if operator.type == DEPTHWISE:
            output = smoothed_range(statistics[operator.output], None, config.activation, framework=FRAMEWORK)
        calibrations[name] = OperatorCalibration(limits, scales.get(name), output)
    simulated = frozenset(name for name in calibrations if is_simulated(name, configs[name]))
    return QuantizationPlan(configs, calibrations, simulated, choices)


def group_weights(graph_of: Mapping[str, Graph], operators: Sequence[Operator]) -> list[FloatArray]:
    """The weights of linear operators as [features, inputs]."""
    return [kernel_weight(graph_of[each.name], each).T for each in operators]


def _smoothing_scales(
    graph_of: Mapping[str, Graph],
    operators: Mapping[str, Operator],
    configs: Mapping[str, OpConfig],
    statistics: Statistics,
) -> dict[str, FloatArray]:
    """One scale for all operators that read the same tensor and are configured alike."""
    scales: dict[str, FloatArray] = {}
    alike: dict[tuple[str, OpConfig], list[str]] = {}
    for name, config in configs.items():
        if config.alpha is not None and config.is_quantized and operators[name].is_linear:
            alike.setdefault((operators[name].input, config), []).append(name)
    for (tensor, config), names in alike.items():
        assert config.alpha is not None
        weights = group_weights(graph_of, [operators[name] for name in names])
        scale: FloatArray = smoothing_scale(
            statistics[tensor].channel_absmax, group_weight_absmax(weights), config.alpha
        )
        scales |= dict.fromkeys(names, scale)
    return scales
