"""What a candidate gains over fp32 in what the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.vocabulary import Objective


def gain(adaptor: Adaptor, objective: Objective, model: Any, candidate: Any) -> float | None:
    """fp32 cost over candidate cost, both measured: 2.0 is twice as fast, or half as large.

    Args:
        adaptor: measures the two, after calibration.
        objective: the cost: `performance` is seconds of a forward pass, `modelsize` bytes of weights, `footprint`
            the largest number of bytes in use during a forward pass, weights included.
        model: the fp32 model.
        candidate: the deployable model.

    Returns:
        None where the adaptor does not measure this cost.
    """
    costs = _costs(adaptor, objective, (model, candidate))
    if costs is None or not all(costs):
        return None
    return float(costs[0] / costs[1])


def _costs(adaptor: Adaptor, objective: Objective, models: Sequence[Any]) -> Sequence[float] | None:
    if objective == "performance":
        return adaptor.measure(models)
    if objective == "footprint":
        return adaptor.footprint(models)
    # An adaptor that knows no size returns None, which counts as no cost.
    return [adaptor.model_size(model) or 0 for model in models]
