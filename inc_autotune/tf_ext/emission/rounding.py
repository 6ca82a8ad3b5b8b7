"""How far weights that are rounded by second moments are from the nearest integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.quantization import SecondMoment
from inc_autotune.graphs import Steps, StepsCache, content, has_moments, summed_moment, weight_steps
from inc_autotune.tf_ext.calibration import FRAMEWORK, Analysis, QuantizationPlan
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import DEPTHWISE, Operator, kernel_weight


def with_steps(
    analysis: Analysis, plan: QuantizationPlan, moments: Mapping[str, SecondMoment], cache: StepsCache
) -> QuantizationPlan:
    """A plan with the steps of the weights that it rounds by second moments.

    Args:
        analysis: of the fp32 model.
        plan: complete but for the steps.
        moments: by the names of `Analysis.moment_names`.
        cache: of the steps found before.
    """
    calibrations = dict(plan.calibrations)
    for name, config in plan.configs.items():
        wanted = analysis.moment_names.get(name, ())
        if config.rounding == "nearest" or not config.is_quantized or not has_moments(wanted, moments):
            continue
        operator, graph, calibration = analysis.operators[name], analysis.graph_of[name], plan.calibration(name)
        whole = plan.is_integer(name)
        version = (config.weight, calibration.reduce_range, content(calibration.smoothing), whole)

        def make(
            operator: Operator = operator, graph: Graph = graph, whole: bool = whole, names: Sequence[str] = wanted[0]
        ) -> Steps:
            calibration = plan.calibration(operator.name)
            return weight_steps(
                _rows(graph, operator, calibration.smoothing, with_multiplier=whole),
                plan.configs[operator.name].weight,
                summed_moment(names, moments),
                smoothing=calibration.smoothing,
                framework=FRAMEWORK,
                reduce_range=calibration.reduce_range,
            )

        calibrations[name] = replace(calibration, steps=cache.get(name, version, make))
    return replace(plan, calibrations=calibrations)


def _rows(graph: Graph, operator: Operator, factor: FloatArray | None, *, with_multiplier: bool) -> FloatArray:
    """The weight as it is written, with its features in front: an integer kernel takes in what follows the product."""
    if not with_multiplier:
        operator = replace(operator, epilogue=replace(operator.epilogue, multiplier=None))
    weight = kernel_weight(graph, operator)
    if factor is not None:
        weight = weight * factor[:, None]
    if operator.type == DEPTHWISE:
        weight = weight.reshape(*weight.shape[:2], operator.features)
    return np.ascontiguousarray(np.moveaxis(weight, -1, 0))
