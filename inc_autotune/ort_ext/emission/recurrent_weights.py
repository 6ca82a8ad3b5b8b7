"""Weights of recurrences, product by product, and how far they are from the nearest integers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise

import numpy as np

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import SecondMoment, pack_steps, unpack_steps
from inc_autotune.graphs import QuantizedWeight, Steps, content, quantize_weight, weight_steps
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator, RecurrentProduct, recurrent_products


def recurrent_weight(
    emission: Emission, operator: Operator, config: TensorConfig, product: RecurrentProduct
) -> QuantizedWeight:
    """The weight of one product, [gates * hidden, features] in integers.

    Args:
        emission: the model under construction.
        operator: the recurrence.
        config: of its weights.
        product: one of its `recurrent_products`.
    """
    calibration = emission.plan.calibration(operator.name)
    return quantize_weight(
        product.matrix(emission.graph),
        config,
        axis=0,
        framework=FRAMEWORK,
        reduce_range=calibration.reduce_range,
        steps=None if calibration.steps is None else _part(emission.graph, operator, calibration.steps, product),
    )


def recurrent_version(emission: Emission, operator: Operator, config: TensorConfig) -> Hashable:
    """All that the integers of a recurrence depend on, beside the float weights."""
    calibration = emission.plan.calibration(operator.name)
    return config, calibration.reduce_range, content(calibration.steps)


def recurrent_steps(
    graph: Graph, operator: Operator, config: TensorConfig, moments: Sequence[SecondMoment], *, reduce_range: bool
) -> Steps:
    """The steps of all weights of a recurrence, product after product.

    Args:
        graph: the fp32 model.
        operator: the recurrence.
        config: of its weights.
        moments: of what its `recurrent_products` multiply.
        reduce_range: one bit less.
    """
    parts = []
    for product, moment in zip(recurrent_products(graph, graph.by_name[operator.name]), moments, strict=True):
        matrix = product.matrix(graph)
        packed = weight_steps(matrix, config, moment, smoothing=None, framework=FRAMEWORK, reduce_range=reduce_range)
        parts.append(unpack_steps(packed, matrix.shape).ravel())
    return pack_steps(np.concatenate(parts))


def _part(graph: Graph, operator: Operator, steps: Steps, wanted: RecurrentProduct) -> Steps:
    """The steps of one product's weight, of those of all.

    Raises:
        RecipeError: they are of other weights.
    """
    products = recurrent_products(graph, graph.by_name[operator.name])
    sizes = [(each.stop - each.start) * (graph.shape(each.weight) or (0,))[-1] for each in products]
    ends = [0, *accumulate(sizes)]
    whole = unpack_steps(steps, (ends[-1],))
    start, stop = list(pairwise(ends))[products.index(wanted)]
    return pack_steps(whole[start:stop])
