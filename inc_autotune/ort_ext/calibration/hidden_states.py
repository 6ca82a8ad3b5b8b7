"""What recurrences multiply with the weights of their states, as tensors of the graph that calibration runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from inc_autotune.ort_ext.graph import Graph, GraphBuilder, GraphModel, given_input
from inc_autotune.ort_ext.operators import (
    RECURRENT_TYPES,
    Operator,
    RecurrentProduct,
    activations,
    directions,
    recurrent_products,
)

_BIAS, _FIRST = 3, 5
"""Places among the inputs of a recurrence."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """A model that also computes what its recurrences multiply.

    Args:
        model: the fp32 model, and behind each recurrence the nodes that make these tensors.
        factors: by name of the recurrence, for each of its `recurrent_products` the tensor that it multiplies,
            [steps, batch, features].
    """

    model: GraphModel
    factors: Mapping[str, Sequence[str]]


def with_hidden_states(graph: Graph, operators: Mapping[str, Operator]) -> HiddenStates:
    """The model with tensors of the states that its recurrences multiply.

    A step multiplies the state of the step before, so these are all states but the last, behind the first one where
    that is given; where it is not, it is zero and says nothing. Behind the end of a sequence that is shorter than
    others stand zeros, as onnxruntime puts them out.

    Args:
        graph: the fp32 model.
        operators: of that graph.
    """
    builder = GraphBuilder(graph)
    factors: dict[str, Sequence[str]] = {}
    for node in graph.nodes:
        if node.name in operators and node.op_type in RECURRENT_TYPES:
            factors[node.name] = _add(builder, node)
        else:
            builder.keep(node)
    return HiddenStates(builder.build() if factors else graph.model, factors)


def _add(builder: GraphBuilder, node: onnx.NodeProto) -> list[str]:
    """Add a recurrence with all its states among its outputs, and what it multiplies."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if not copy.output[0]:
        copy.output[0] = builder.new(f"{node.name}.states")
    builder.keep(copy)
    found: list[str] = []
    for product in recurrent_products(builder.base, node):
        if product.factor == "input":
            found.append(node.input[0])
        elif product.factor == "state":
            found.append(_states(builder, node, copy.output[0], product.place))
        else:  # behind the product of the other gates with the state
            found.append(_reset(builder, node, found[-1], product))
    return found


def _states(builder: GraphBuilder, node: onnx.NodeProto, states: str, place: int) -> str:
    """What each step of a direction gets, of the states [steps, directions, batch, hidden] of all."""
    is_reverse, name = directions(node)[place] == "reverse", f"{node.name}.{directions(node)[place]}"
    own = builder.compute("Gather", [states, _integers(builder, name, place)], f"{name}.states", axis=1)
    earlier = _steps(builder, own, name, from_second=is_reverse)
    first = given_input(node, _FIRST)
    if not first:
        return earlier
    first = builder.compute("Gather", [first, _integers(builder, name, [place])], f"{name}.first", axis=0)
    parts = [earlier, first] if is_reverse else [first, earlier]
    return builder.compute("Concat", parts, f"{name}.given", axis=0)


def _reset(builder: GraphBuilder, node: onnx.NodeProto, states: str, product: RecurrentProduct) -> str:
    """States after the reset gate of a GRU, which computes it of the input and the state."""
    graph, place = builder.base, product.place
    is_reverse, name = directions(node)[place] == "reverse", f"{node.name}.{directions(node)[place]}.reset"
    hidden = product.stop - product.start
    rows = slice(hidden, 2 * hidden)
    # Without a first state the states are those of all steps but one.
    inputs = (
        node.input[0] if given_input(node, _FIRST) else _steps(builder, node.input[0], name, from_second=not is_reverse)
    )
    total = ""
    for what, factor, weight in (("input", inputs, node.input[1]), ("state", states, node.input[2])):
        matrix = np.ascontiguousarray(graph.constant(weight)[place, rows].T)
        part = builder.compute("MatMul", [factor, builder.constant(f"{name}.{what}", matrix)], f"{name}.{what}.product")
        total = builder.compute("Add", [total, part], f"{name}.sum") if total else part
    bias = given_input(node, _BIAS)
    if bias:
        of_input, of_state = np.split(graph.constant(bias)[place], 2)
        added = builder.constant(f"{name}.bias", of_input[rows] + of_state[rows])
        total = builder.compute("Add", [total, added], f"{name}.biased")
    gate, _ = activations(node)[place]
    return builder.compute("Mul", [builder.compute(gate, [total], f"{name}.gate"), states], f"{name}.states")


def _steps(builder: GraphBuilder, tensor: str, name: str, *, from_second: bool) -> str:
    """All steps of a tensor [steps, batch, features] but the first, or the last, one."""
    edges = (1, np.iinfo(np.int64).max) if from_second else (0, -1)
    bounds = [_integers(builder, name, [edge]) for edge in (*edges, 0)]
    return builder.compute("Slice", [tensor, *bounds], f"{name}.steps")


def _integers(builder: GraphBuilder, name: str, value: int | Sequence[int]) -> str:
    return builder.constant(f"{name}.place", np.asarray(value, np.int64))
