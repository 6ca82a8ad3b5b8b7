"""Which operator of the graph is which layer's: found by the names that nodes get while the layer is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.calibration import Analysis
from inc_autotune.tf_ext.operators import DEPTHWISE, LOOKUP, Operator
from inc_autotune.tf_ext.training.attachment import SEPARABLE, own_call, roles_of
from inc_autotune.tf_ext.training.forms import Layout, Role

NO_LAYER = "not trained: no layer of Keras that can round computes it"
OTHER_WEIGHT = "not trained: its weight is not that of its layer, but computed from it"


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer while its model is traced.

    Args:
        layer: position of the layer.
        scope: prefix of the names of the nodes that it makes.
    """

    layer: int
    scope: str


@dataclass(frozen=True)
class LayerOperator:
    """An operator of the graph as a part of a layer.

    Args:
        name: of the operator.
        layer: position of the layer.
        role: which weight of the layer it has.
        layout: of that weight as a matrix.
        features: how many the weight has.
        is_folded: whether something is multiplied into the weight, such as a BatchNorm.
    """

    name: str
    layer: int
    role: Role
    layout: Layout
    features: int
    is_folded: bool


@contextmanager
def recorded_calls(layers: Sequence[Any]) -> Iterator[list[LayerCall]]:
    """Layers compute as they are, without rounding, and their calls in a graph are recorded."""
    found: list[LayerCall] = []
    before: list[tuple[Any, Any]] = []
    for position, layer in enumerate(layers):
        if roles_of(layer):
            before.append((layer, vars(layer).get("call")))
            layer.call = _recording(layer, position, found)
    try:
        yield found
    finally:
        for layer, call in before:
            if call is None:
                del layer.call
            else:
                layer.call = call


def _recording(layer: Any, position: int, found: list[LayerCall]) -> Any:
    own = own_call(layer)

    @wraps(own)
    def call(*arguments: Any, **options: Any) -> Any:
        found.append(LayerCall(position, tf.get_current_name_scope()))
        return own(*arguments, **options)

    return call


def match_operators(
    analysis: Analysis, calls: Sequence[LayerCall], layers: Sequence[Any]
) -> tuple[dict[str, LayerOperator], dict[str, str]]:
    """The operators that are a layer's, by name, and why others are not.

    An operator is a layer's if its name is below the scope of a call, and its weight is that of the layer, but for a
    factor of each feature.

    Args:
        analysis: of the model that was traced.
        calls: of its layers in that trace, and perhaps in earlier ones.
        layers: of the model.
    """
    by_scope = {call.scope: call.layer for call in calls if call.scope}
    found: dict[str, LayerOperator] = {}
    missed: dict[str, str] = {}
    for name, operator in analysis.operators.items():
        position = _layer_of(name, by_scope)
        if position is None:
            missed[name] = NO_LAYER
            continue
        match = _matched(analysis, operator, position, layers[position])
        if match is None:
            missed[name] = OTHER_WEIGHT
        else:
            found[name] = match
    return found, missed


def _layer_of(name: str, by_scope: Mapping[str, int]) -> int | None:
    inside = [scope for scope in by_scope if f"/{scope}/" in f"/{name}/"]
    return by_scope[max(inside, key=len)] if inside else None


def _matched(analysis: Analysis, operator: Operator, position: int, layer: Any) -> LayerOperator | None:
    roles = roles_of(layer)
    role = roles[0]
    if isinstance(layer, SEPARABLE):
        role = roles[0] if operator.type == DEPTHWISE else roles[1]
    own = np.asarray(tf.convert_to_tensor(getattr(layer, role)))
    used = analysis.graph_of[operator.name].constant(operator.weight)
    if used is None or used.size != own.size:
        return None
    features = used.shape[0] if operator.type == LOOKUP else operator.features
    by_features = _by_features(used, features, features_first=operator.type == LOOKUP or operator.transposed)
    layouts: tuple[Layout, ...] = ("features_first",) if operator.type == LOOKUP else ("inputs_first", "features_first")
    for layout in layouts:
        matrix = _by_features(own, features, features_first=layout == "features_first")
        factor = _factor(matrix, by_features)
        if factor is not None:
            is_folded = operator.epilogue.multiplier is not None or not np.allclose(factor, 1, rtol=1e-5)
            return LayerOperator(operator.name, position, role, layout, features, is_folded)
    return None


def _by_features(weight: Array, features: int, *, features_first: bool) -> Array:
    """[inputs, features]"""
    return weight.reshape(features, -1).T if features_first else weight.reshape(-1, features)


def _factor(own: Array, used: Array) -> Array | None:
    """What the weight of each feature is multiplied by; None if there is no such factor."""
    norm = (own * own).sum(0)
    factor: Array = np.where(norm > 0, (own * used).sum(0) / np.where(norm > 0, norm, 1), 1)
    largest = np.abs(used).max(initial=0.0)
    return factor if np.allclose(own * factor, used, rtol=1e-4, atol=1e-6 * largest) else None
