"""Which weights have 7 bits instead of 8."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.emission.routes import Route, route_of
from inc_autotune.tf_ext.operators import LOOKUP


def with_reduced_weights(analysis: Analysis, plan: QuantizationPlan, reduced: Collection[Route]) -> QuantizationPlan:
    """The plan with 7-bit weights for all integer operators on the given routes; weights that have 7 bits keep them.

    Args:
        analysis: of the fp32 model.
        plan: configurations and calibrations of operators.
        reduced: the routes on which weights must have 7 bits.
    """
    calibrations = dict(plan.calibrations)
    for graph in analysis.bodies if reduced else ():
        operators = analysis.operators_of(graph)
        chains = IntegerChains(graph, operators, plan)
        for name, operator in operators.items():
            if operator.type != LOOKUP and plan.is_integer(name) and route_of(graph, operator, chains) in reduced:
                calibrations[name] = replace(plan.calibration(name), reduce_range=True)
    return replace(plan, calibrations=calibrations)
