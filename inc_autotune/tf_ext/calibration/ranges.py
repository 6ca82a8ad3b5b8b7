"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization import Statistics, input_means, smoothed_range
from inc_autotune.graphs import OperatorCalibration, content, smoothing_scales
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK, QuantizationPlan
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import CONVOLUTION, DEPTHWISE, Operator, kernel_weight
from inc_autotune.tf_ext.target import KERNEL_FORM, GraphChoices


def can_correct(operator: Operator, config: OpConfig, choices: GraphChoices) -> bool:
    """Whether an operator's weight and bias can be corrected: where one of TensorFlow's integer kernels has both."""
    if choices.form != KERNEL_FORM or config.weight.dtype != "int8":
        return False
    if operator.is_linear:
        return config.approach in ("static", "dynamic")
    return operator.type in (CONVOLUTION, DEPTHWISE) and config.approach == "static"


def integer_dtype(config: TensorConfig, limits: tuple[float, float]) -> str:
    """The type of the integers of an activation with values within `limits`.

    A symmetric type becomes unsigned for a tensor without negative values, which halves the step, and signed for every
    other tensor, since unsigned integers without a zero point cannot stand for negative values.
    """
    if config.scheme != "sym":
        return config.dtype
    return f"{'u' if limits[0] >= 0 else ''}{config.dtype.removeprefix('u')}"


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
    scales = smoothing_scales(
        operators, configs, statistics, partial(weight_of, graph_of), partial(group_weights, graph_of)
    )
    calibrations = {}
    for name, config in configs.items():
        if not config.is_quantized:
            continue
        operator, scale = operators[name], scales.get(name)
        limits = output = means = None
        if config.approach == "static":
            limits = smoothed_range(statistics[operator.input], scale, config.activation, framework=FRAMEWORK)
        if "fast_bias_correction" in config.corrections and can_correct(operator, config, choices):
            activation = config.activation
            if limits is not None:
                activation = replace(activation, dtype=integer_dtype(activation, limits))
            means = input_means(statistics[operator.input], scale, activation, limits, framework=FRAMEWORK)
        if operator.type == DEPTHWISE:
            output = smoothed_range(statistics[operator.output], None, config.activation, framework=FRAMEWORK)
        calibrations[name] = OperatorCalibration(limits, scale, output, input_means=means)
    simulated = frozenset(name for name in calibrations if is_simulated(name, configs[name]))
    return QuantizationPlan(configs, calibrations, simulated, choices)


def group_weights(graph_of: Mapping[str, Graph], operators: Sequence[Operator]) -> list[FloatArray]:
    """The weights of linear operators as [features, inputs]."""
    return [kernel_weight(graph_of[each.name], each).T for each in operators]


def weight_of(graph_of: Mapping[str, Graph], operator: Operator) -> Hashable:
    """The same for operators that multiply by the same matrix."""
    origin = graph_of[operator.name].origin(operator.weight)
    return origin, operator.transposed, content(operator.epilogue.multiplier)
