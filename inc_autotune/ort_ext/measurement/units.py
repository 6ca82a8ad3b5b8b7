"""Speed of single units in fp32 and in integers; a unit is timed as a small model of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeAlias

import onnx
import onnxruntime
from onnx import TensorProto, helper

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.timing import PairSeconds, pair_seconds
from inc_autotune.core.arrays import Array
from inc_autotune.core.space.units import Unit
from inc_autotune.graphs.feed import Feed
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.measurement.models import session_clock
from inc_autotune.ort_ext.model.sessions import run_session
from inc_autotune.ort_ext.operators.discovery import Operator, Operators, find_operators

SHORTEST_SECONDS = 100e-6
"""Units whose integer form takes less are not judged: calling a session takes 10 microseconds by itself, and there is
little to win."""

BUDGET_SECONDS = 1.0
"""For all units of a model together."""

MakeSession: TypeAlias = Callable[[GraphModel, Sequence[str]], onnxruntime.InferenceSession]
"""Makes a session for a model with additional outputs, given by name."""

Quantize: TypeAlias = Callable[[Graph, Operators, Unit], GraphModel]
"""Makes the integer form of the subgraph of a unit."""


def measure_units(
    units: Sequence[Unit],
    graph: Graph,
    operators: Operators,
    feed: Feed,
    make_session: MakeSession,
    quantize: Quantize,
    expired: Callable[[], bool],
) -> dict[str, UnitSpeed]:
    """Time every unit of linear operators by itself; units with equal shapes and configuration are timed once.

    Convolutions are not judged: they pass integers to each other, which a model of one convolution does not show.

    Args:
        units: with an integer configuration as first option.
        graph: the fp32 model.
        operators: of that graph.
        feed: inputs of the model.
        make_session: makes the sessions.
        quantize: makes the integer form of a unit.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        Speeds by unit name, without units that are too short to be judged.
    """
    members = {unit.name: [operators.found[name] for name in unit.operator_names] for unit in units}
    judged = [unit for unit in units if all(operator.is_linear for operator in members[unit.name])]
    if not judged or expired():
        return {}
    deadline = time.perf_counter() + BUDGET_SECONDS

    def ended() -> bool:
        return expired() or time.perf_counter() >= deadline

    inputs = _values(graph, sorted({members[unit.name][0].input for unit in judged}), feed, make_session)
    known: dict[Hashable, PairSeconds | None] = {}
    speeds: dict[str, UnitSpeed] = {}
    for unit in judged:
        value = inputs[members[unit.name][0].input]
        shapes = tuple(_geometry(graph, each) for each in members[unit.name])
        key = (shapes, value.shape, unit.options[0])
        if key not in known:
            if ended():
                break
            part = _part(graph, members[unit.name], value.ndim)
            fp32 = make_session(part.model, ())
            integer = make_session(quantize(part, find_operators(part), unit), ())
            alone = {members[unit.name][0].input: value}
            known[key] = pair_seconds(
                partial(run_session, fp32, alone, f"{unit.name} alone, in fp32,"),
                partial(run_session, integer, alone, f"{unit.name} alone, in integers,"),
                session_clock([fp32, integer]),
                shortest=SHORTEST_SECONDS,
                ended=ended,
            )
        pair = known[key]
        if pair is not None:
            text = f"{_text(graph, members[unit.name])} on {'x'.join(map(str, value.shape))}"
            speeds[unit.name] = UnitSpeed(pair.fp32 / pair.integer, text)
    return speeds


def _values(graph: Graph, tensors: Sequence[str], feed: Feed, make_session: MakeSession) -> dict[str, Array]:
    """What tensors inside the model are for these inputs."""
    session = make_session(graph.model, tensors)
    return dict(zip(tensors, session.run(list(tensors), feed.inputs), strict=True))


def _part(graph: Graph, operators: Sequence[Operator], rank: int) -> Graph:
    """A model of operators that read the same tensor, with their biases.

    Args:
        graph: the whole model.
        operators: of that graph.
        rank: dimensions of the tensor that the operators read, which becomes the input.
    """
    names = [name for operator in operators for name in (operator.name, operator.bias_node) if name is not None]
    nodes = [graph.by_name[name] for name in names]
    nodes = [*graph.computing(name for node in nodes for name in node.input), *nodes]
    read = {name for node in nodes for name in node.input}
    proto = onnx.ModelProto(ir_version=graph.model.proto.ir_version, opset_import=graph.model.proto.opset_import)
    proto.graph.CopyFrom(
        helper.make_graph(
            nodes,
            "unit",
            [helper.make_tensor_value_info(operators[0].input, TensorProto.FLOAT, [None] * rank)],
            [helper.make_empty_tensor_value_info(operator.output) for operator in operators],
            [value for name, value in graph.initializers.items() if name in read],
        )
    )
    return Graph(GraphModel(proto, graph.model.weights, graph.model.folder))


def _geometry(graph: Graph, operator: Operator) -> Hashable:
    return operator.type, graph.shape(operator.weight), operator.transposed, operator.bias is None


def _text(graph: Graph, operators: Sequence[Operator]) -> str:
    first = operators[0]
    more = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
    return f"{first.type} {'x'.join(map(str, graph.shape(first.weight) or ()))}{more}"
