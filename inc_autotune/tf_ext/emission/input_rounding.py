"""What the emitters round the input of an operator to, for those who compute the same in float."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inc_autotune.tf_ext.calibration import QuantizationPlan
from inc_autotune.tf_ext.emission.activation_grid import (
    CONVOLVED,
    LARGEST_INT8,
    SCALED,
    Grid,
    Range,
    activation_parameters,
    grid_of,
)
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.emission.zero_points import convolved_grid
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import Operator


@dataclass(frozen=True)
class InputRounding:
    """The integers of an operator's input.

    Args:
        quant_min: smallest integer.
        quant_max: largest integer.
        scheme: "asym", with a zero point, or "sym".
        limits: smallest and largest value, which determine the scale.
        chained: whether another operator returns the input as integers, whose range all its readers share.
        is_fixed: whether the limits must stay, since a Relu6 is computed by integers that end at 6.
    """

    quant_min: int
    quant_max: int
    scheme: str
    limits: Range
    chained: bool = False
    is_fixed: bool = False


def input_rounding(
    graph: Graph, operator: Operator, plan: QuantizationPlan, chains: IntegerChains
) -> InputRounding | None:
    """How a quantized operator rounds its input; None where it reads float, or finds a range whenever it runs.

    Args:
        graph: the fp32 signature.
        operator: of that graph, with a configuration in the plan.
        plan: configurations and calibrations.
        chains: of that graph and plan.
    """
    config, calibration = plan.configs[operator.name], plan.calibration(operator.name)
    limits = calibration.range
    if config.activation.is_float or limits is None:
        return None
    if not plan.is_integer(operator.name):
        parameters = activation_parameters(config.activation, limits)
        return InputRounding(parameters.quant_min, parameters.quant_max, config.activation.scheme or "asym", limits)
    made = None if calibration.smoothing is not None else chains.integer_range(operator.input)
    if made is not None:
        shared = _of_grid(grid_of(CONVOLVED, made), made)
        return replace(shared, chained=True, is_fixed=chains.ends_at_six(operator.input))
    if operator.is_linear:
        grid = grid_of(config.activation, limits)
    else:
        grid = convolved_grid(graph, operator, config.activation, limits)
    return _of_grid(grid, limits)


def _of_grid(grid: Grid, limits: Range) -> InputRounding:
    largest = int(LARGEST_INT8)
    if grid.shift:
        return InputRounding(-largest, largest, "asym", limits)
    quant_min, quant_max = (-largest, largest) if grid.is_signed else (0, 255)
    return InputRounding(quant_min, quant_max, "sym" if grid.mode == SCALED else "asym", limits)
