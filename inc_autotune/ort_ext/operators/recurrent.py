"""LSTM, GRU and RNN: their products, and what of the latter two can be written as a Scan over integer ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.ort_ext.graph import Graph, attributes

SCANNED_TYPES = ("GRU", "RNN")
"""Recurrences without an integer kernel of their own."""

RECURRENT_TYPES = ("LSTM", *SCANNED_TYPES)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates of a recurrence, whose weights stand in one matrix."""

USUAL_ACTIVATIONS = {"GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
PLAIN_ACTIVATIONS = ("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh")
"""Without parameters."""

Factor: TypeAlias = Literal["input", "state", "reset state"]
"""What a weight of a recurrence is multiplied with; the last is the state after the reset gate of a GRU."""


@dataclass(frozen=True)
class RecurrentProduct:
    """One product of a recurrence.

    Args:
        place: of its direction.
        weight: name of the weights of all directions, [directions, gates * hidden, features].
        factor: what it multiplies.
        start: first of its rows among the direction's.
        stop: the end of them.
    """

    place: int
    weight: str
    factor: Factor
    start: int
    stop: int

    def matrix(self, graph: Graph) -> FloatArray:
        """Its part of the weight: [gates * hidden, features]."""
        matrix: FloatArray = graph.constant(self.weight)[self.place, self.start : self.stop]
        return matrix


def recurrent_products(graph: Graph, node: onnx.NodeProto) -> list[RecurrentProduct]:
    """The products of a recurrence: of each direction that with the input, then those with states.

    Args:
        graph: of the node.
        node: an LSTM, GRU or RNN with constant weights.
    """
    _, of_input, of_state = node.input[:3]
    _, rows, hidden = graph.shape(of_state) or (0, 0, 0)
    states: list[tuple[Factor, int, int]] = [("state", 0, rows)]
    if node.op_type == "GRU" and not attributes(node).get("linear_before_reset", 0):
        states = [("state", 0, 2 * hidden), ("reset state", 2 * hidden, rows)]
    found = []
    for place in range(len(directions(node))):
        found.append(RecurrentProduct(place, of_input, "input", 0, rows))
        found += [RecurrentProduct(place, of_state, *state) for state in states]
    return found


def directions(node: onnx.NodeProto) -> tuple[str, ...]:
    """The directions of a recurrence, in the order of its weights: forward, reverse, or both."""
    given = attributes(node).get("direction", b"forward").decode()
    return ("forward", "reverse") if given == "bidirectional" else (given,)


def activations(node: onnx.NodeProto) -> list[tuple[str, ...]]:
    """The activations of a GRU or RNN in each of its directions, as operator types."""
    usual = USUAL_ACTIVATIONS[node.op_type]
    given = [name.decode().capitalize() for name in attributes(node).get("activations", [])]
    count = len(usual)
    return [tuple(given[place * count : (place + 1) * count]) or usual for place in range(len(directions(node)))]


def unscannable(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Why a GRU or RNN stays as it is; None where it can be written as a Scan."""
    if attributes(node).get("clip"):
        return "its gates are clipped"
    unknown = [name for names in activations(node) for name in names if name not in PLAIN_ACTIVATIONS]
    if unknown:
        return f"its activation {unknown[0]} has parameters; without are {', '.join(PLAIN_ACTIVATIONS)}"
    bias = _given(node.input, 3)
    return "its bias is not a float32 constant" if bias and not graph.is_float_constant(bias) else None


def _given(names: Sequence[str], index: int) -> str:
    return names[index] if len(names) > index else ""
