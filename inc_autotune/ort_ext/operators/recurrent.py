"""GRU and RNN: what of them can be written as a Scan over integer products."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from inc_autotune.ort_ext.graph import Graph, attributes

SCANNED_TYPES = ("GRU", "RNN")
"""Recurrences without an integer kernel of their own."""

RECURRENT_TYPES = ("LSTM", *SCANNED_TYPES)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates of a recurrence, whose weights stand in one matrix."""

USUAL_ACTIVATIONS = {"GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
PLAIN_ACTIVATIONS = ("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh")
"""Without parameters."""


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
