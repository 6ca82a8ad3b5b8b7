"""Speed of single units, in fp32 and as integers: each as a small model of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeAlias

import onnx
import onnxruntime
from onnx import TensorProto, helper

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis.timing import Call
from inc_autotune.core.analysis.unit_timing import TimedOperator, TimedUnit, time_units
from inc_autotune.core.arrays import Array
from inc_autotune.core.space.units import Unit
from inc_autotune.graphs.feed import Feed
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.measurement.models import session_clock
from inc_autotune.ort_ext.model.sessions import run_session
from inc_autotune.ort_ext.operators.discovery import Operator, Operators, find_operators

SHORTEST_SECONDS = 100e-6
"""Units that are done sooner are not judged: the call of a session alone takes 10 microseconds, and there is little to
win."""

BUDGET_SECONDS = 1.0
"""For all units of a model together."""

MakeSession: TypeAlias = Callable[[GraphModel, Sequence[str]], onnxruntime.InferenceSession]
"""Takes a model and the names of additional outputs."""

Quantize: TypeAlias = Callable[[Graph, Operators, Unit], GraphModel]
"""Takes the part of the model that a unit is, and makes its integer form."""


def measure_units(
    units: Sequence[Unit],
    graph: Graph,
    operators: Operators,
    feed: Feed,
    make_session: MakeSession,
    quantize: Quantize,
    expired: Callable[[], bool],
) -> dict[str, UnitSpeed]:
    """Time each unit of linear operators by itself; those of equal shapes and configuration are timed once.

    Convolutions are not judged: they hand integers on to each other, which a model of one of them does not show.

    Args:
        units: whose first option is an integer configuration.
        graph: the fp32 model.
        operators: of that graph.
        feed: inputs of the model.
        make_session: makes the sessions.
        quantize: makes the integer form of a unit.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        By unit name, without units that are too short to be judged.
    """
    members = {unit.name: [operators.found[name] for name in unit.operator_names] for unit in units}
    judged = [unit for unit in units if all(each.is_linear for each in members[unit.name])]
    if not judged or expired():
        return {}
    session = make_session(graph.model, inputs := sorted({members[unit.name][0].input for unit in judged}))
    values = dict(zip(inputs, session.run(inputs, feed.inputs), strict=True))

    def timed(unit: Unit) -> TimedUnit:
        own = members[unit.name]
        value = values[own[0].input]
        key = (tuple(_geometry(graph, each) for each in own), value.shape, unit.options[0])
        text = f"{_text(graph, own)} on {'x'.join(map(str, value.shape))}"
        return TimedUnit(unit.name, [TimedOperator(key, text, partial(forms, unit, value))])

    def forms(unit: Unit, value: Array) -> tuple[Call, Call]:
        own = members[unit.name]
        part = _part(graph, own, value.ndim)
        fp32 = make_session(part.model, ())
        integer = make_session(quantize(part, find_operators(part), unit), ())
        return (
            partial(run_session, fp32, {own[0].input: value}, f"{unit.name} alone, in fp32,"),
            partial(run_session, integer, {own[0].input: value}, f"{unit.name} alone, in integers,"),
        )

    return time_units(
        map(timed, judged),
        session_clock([session]),
        shortest=SHORTEST_SECONDS,
        budget=BUDGET_SECONDS,
        expired=expired,
    )


def _part(graph: Graph, operators: Sequence[Operator], rank: int) -> Graph:
    """A model of some operators that read the same tensor, with their biases."""
    names = [name for each in operators for name in (each.name, each.bias_node) if name is not None]
    nodes = [graph.by_name[name] for name in names]
    nodes = [*graph.computing(name for node in nodes for name in node.input), *nodes]
    read = {name for node in nodes for name in node.input}
    proto = onnx.ModelProto(ir_version=graph.model.proto.ir_version, opset_import=graph.model.proto.opset_import)
    proto.graph.CopyFrom(
        helper.make_graph(
            nodes,
            "unit",
            [helper.make_tensor_value_info(operators[0].input, TensorProto.FLOAT, [None] * rank)],
            [helper.make_empty_tensor_value_info(each.output) for each in operators],
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
