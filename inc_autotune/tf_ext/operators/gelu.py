"""Finds GELU, which TensorFlow computes in five or more operators, by what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph import Graph, data_inputs

_POINTS = np.linspace(-4.0, 4.0, 41)
_TOLERANCE = 1e-5
"""Of float32 constants; the two forms differ by up to 5e-4."""

_erf = np.vectorize(math.erf)
_erfc = np.vectorize(math.erfc)

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Mul": np.multiply,
    "AddV2": np.add,
    "Add": np.add,
    "Sub": np.subtract,
    "RealDiv": np.divide,
    "Neg": np.negative,
    "Square": np.square,
    "Pow": np.power,
    "Erf": _erf,
    "Erfc": _erfc,
    "Tanh": np.tanh,
    "Identity": np.positive,
}

_FORMS = {
    "GeluExact": _POINTS * 0.5 * _erfc(-_POINTS / math.sqrt(2)),
    "GeluApproximate": 0.5 * _POINTS * (1 + np.tanh(math.sqrt(2 / math.pi) * (_POINTS + 0.044715 * _POINTS**3))),
}


@dataclass(frozen=True)
class ActivationFunction:
    """An activation function that is part of an operator.

    Args:
        kind: as integer kernels call it: "Relu", "GeluExact" and so on.
        output: the tensor it makes.
        nodes: names of its nodes.
        alpha: slope of a LeakyRelu below zero.
    """

    kind: str
    output: str
    nodes: tuple[str, ...]
    alpha: float = 0.2


def find_gelu(graph: Graph, tensor: str) -> ActivationFunction | None:
    """The GELU of a tensor, if all that reads the tensor belongs to it.

    Elementwise operators that depend on this tensor and on constants alone are computed on a few points, until one of
    them is GELU.
    """
    if tensor in graph.outputs:
        return None
    values: dict[str, Any] = {tensor: _POINTS}
    left = list(graph.consumers.get(tensor, ()))
    while left:
        node = left.pop(0)
        value = None if node.name in values else _value(graph, node, values)
        if value is None:
            continue
        values[node.name] = value
        for kind, expected in _FORMS.items():
            if value.shape == expected.shape and np.abs(value - expected).max() < _TOLERANCE:
                return _closed(graph, tensor, node.name, values, kind)
        left += graph.consumers.get(node.name, ())
    return None


def _value(graph: Graph, node: NodeDef, values: dict[str, Any]) -> Any:
    """What a node computes of the points; None where that is not known (yet)."""
    inputs = [values.get(each, graph.scalar(each)) for each in data_inputs(node)]
    if node.op not in _FUNCTIONS or any(each is None for each in inputs):
        return None
    with np.errstate(all="ignore"):
        return _FUNCTIONS[node.op](*inputs)


def _closed(graph: Graph, tensor: str, output: str, values: dict[str, Any], kind: str) -> ActivationFunction | None:
    """The function between two tensors, unless somebody else reads what is in between."""
    inside: set[str] = set()
    left = [output]
    while left:
        name = left.pop()
        inside.add(name)
        left += [each for each in data_inputs(graph.by_name[name]) if each in values and each not in (tensor, *inside)]
    between = {tensor, *inside} - {output}
    if any(each in graph.outputs for each in between):
        return None
    readers = {node.name for each in between for node in graph.consumers[each]}
    return ActivationFunction(kind, output, tuple(sorted(inside))) if readers <= inside else None
