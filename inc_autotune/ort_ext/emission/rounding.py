"""How weights are rounded: to the nearest integers, or by the second moments of what they are multiplied with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.quantization import SecondMoment
from inc_autotune.graphs import Steps, StepsCache, content, has_moments, summed_moment, weight_steps
from inc_autotune.ort_ext.calibration import FRAMEWORK, Analysis, QuantizationPlan
from inc_autotune.ort_ext.emission.convolution import Convolution, convolution_of
from inc_autotune.ort_ext.emission.recurrent_weights import recurrent_steps
from inc_autotune.ort_ext.emission.smoothed_weight import smoothed_matrix
from inc_autotune.ort_ext.emission.smoothing import place_smoothing
from inc_autotune.ort_ext.emission.transposed_convolution import transposed_convolution_of
from inc_autotune.ort_ext.emission.weights import block_size, block_steps
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import RECURRENT_TYPES, Operator


def with_steps(
    analysis: Analysis, plan: QuantizationPlan, moments: Mapping[str, SecondMoment], cache: StepsCache
) -> QuantizationPlan:
    """A plan with the steps of the weights that it rounds by second moments.

    They are found before the model is written, and of the weight as it is written: a smoothing scale that is folded
    into an operator before divides that one's weight too.

    Args:
        analysis: of the fp32 model.
        plan: complete but for the steps.
        moments: by the names of `Analysis.moment_names`.
        cache: of the steps found before.
    """
    graph, operators, names = analysis.graph, analysis.operators, analysis.moment_names
    divisors = place_smoothing(graph, operators, plan).operator_divisors
    calibrations = dict(plan.calibrations)
    for name, config in plan.configs.items():
        wanted = names.get(name, ())
        if config.rounding == "nearest" or not has_moments(wanted, moments):
            continue
        operator, divisor, calibration = operators[name], divisors.get(name), plan.calibration(name)
        version = (
            *(config.weight, config.approach, calibration.reduce_range),
            *(content(calibration.smoothing), content(divisor)),
        )

        def make(
            operator: Operator = operator,
            divisor: FloatArray | None = divisor,
            wanted: Sequence[Sequence[str]] = wanted,
        ) -> Steps:
            return _steps(graph, operator, plan, divisor, [summed_moment(each, moments) for each in wanted])

        calibrations[name] = replace(calibration, steps=cache.get(name, version, make))
    return replace(plan, calibrations=calibrations)


def _steps(
    graph: Graph,
    operator: Operator,
    plan: QuantizationPlan,
    divisor: FloatArray | None,
    moments: Sequence[SecondMoment],
) -> Steps:
    config, calibration = plan.configs[operator.name], plan.calibration(operator.name)
    if operator.type in RECURRENT_TYPES:
        return recurrent_steps(graph, operator, config.weight, moments, reduce_range=calibration.reduce_range)
    (moment,) = moments
    if operator.type in ("Conv", "ConvTranspose"):
        weight = _convolution(graph, operator).kernel()
    else:
        weight = np.ascontiguousarray(smoothed_matrix(graph, operator, calibration.smoothing, divisor))
    if config.approach == "weight_only":
        block = block_size(weight.shape[1], config.weight)
        return block_steps(weight, config.weight, block, moment, calibration.smoothing)
    return weight_steps(
        weight,
        config.weight,
        moment,
        smoothing=calibration.smoothing,
        framework=FRAMEWORK,
        reduce_range=calibration.reduce_range,
    )


def _convolution(graph: Graph, operator: Operator) -> Convolution:
    if operator.type == "Conv":
        return convolution_of(graph, operator)
    return transposed_convolution_of(graph, operator)[0]
