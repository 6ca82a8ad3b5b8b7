"""SmoothQuant in a graph: which operators share a scale."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import Statistics, group_scale
from inc_autotune.graphs.digest import content


class GraphOperator(Protocol):
    """An operator with a constant weight."""

    @property
    def name(self) -> str:
        """Unique in the model."""

    @property
    def type(self) -> str:
        """As rules name it."""

    @property
    def input(self) -> str:
        """Name of the activation it reads."""

    @property
    def is_linear(self) -> bool:
        """Whether it is a product of matrices."""


Operator = TypeVar("Operator", bound=GraphOperator)


def shared_weights(operators: Iterable[Operator], weight_of: Callable[[Operator], Hashable]) -> frozenset[str]:
    """Names of the linear operators whose weight another one reads too, with another input.

    Args:
        operators: of the model.
        weight_of: the same for operators that multiply by the same matrix.
    """
    inputs: dict[Hashable, set[str]] = {}
    linear = [each for each in operators if each.is_linear]
    for each in linear:
        inputs.setdefault(weight_of(each), set()).add(each.input)
    return frozenset(each.name for each in linear if len(inputs[weight_of(each)]) > 1)


def smoothing_scales(
    operators: Mapping[str, Operator],
    configs: Mapping[str, OpConfig],
    statistics: Statistics,
    weight_of: Callable[[Operator], Hashable],
    matrices: Callable[[Sequence[Operator]], Sequence[FloatArray]],
) -> dict[str, FloatArray]:
    """One scale for all operators that read the same tensor, or the same weight, and are configured alike.

    Operators that share a weight so go on sharing it.

    Args:
        operators: of the model, by name.
        configs: by name of the operators that leave fp32.
        statistics: of the inputs of all operators.
        weight_of: the same for operators that multiply by the same matrix.
        matrices: the weights of operators as [out_features, in_features].

    Returns:
        Scales [in_features] by name of the operators that are smoothed.
    """
    alike: dict[OpConfig, list[Operator]] = {}
    for name, config in configs.items():
        if config.alpha is not None and config.is_quantized and operators[name].is_linear:
            alike.setdefault(config, []).append(operators[name])
    scales: dict[str, FloatArray] = {}
    for config, smoothed in alike.items():
        assert config.alpha is not None
        for members in _connected(smoothed, weight_of):
            weights = matrices(list({weight_of(each): each for each in members}.values()))
            inputs = dict.fromkeys(each.input for each in members)
            activation = np.max([statistics[tensor].channel_absmax for tensor in inputs], axis=0)
            scale: FloatArray = group_scale(activation, weights, config.alpha, config.form)
            scales |= dict.fromkeys((each.name for each in members), scale)
    return scales


def smoothed_alike(
    operators: Mapping[str, Operator], scales: Mapping[str, FloatArray]
) -> list[tuple[FloatArray, list[Operator]]]:
    """Groups of operators that read one tensor, divided by one scale, with that scale.

    Args:
        operators: of a graph, by name.
        scales: of the whole model, by operator name.
    """
    groups: dict[tuple[str, str], tuple[FloatArray, list[Operator]]] = {}
    for name, scale in scales.items():
        if name in operators:
            operator = operators[name]
            groups.setdefault((operator.input, content(scale)), (scale, []))[1].append(operator)
    return list(groups.values())


def _connected(operators: Sequence[Operator], weight_of: Callable[[Operator], Hashable]) -> list[list[Operator]]:
    """Linear operators in groups that have no tensor and no weight in common with each other."""
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while parents.setdefault(key, key) != key:
            parents[key] = key = parents[parents[key]]
        return key

    for each in operators:
        parents[root(weight_of(each))] = root(each.input)
    groups: dict[Hashable, list[Operator]] = {}
    for each in operators:
        groups.setdefault(root(each.input), []).append(each)
    return list(groups.values())
