"""Speed of single units in fp32 and in integers; a unit is timed as a small model of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import onnx
import onnxruntime
from onnx import helper

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import Call, Clock, TimedOperator, TimedUnit, time_units
from inc_autotune.core.arrays import Array
from inc_autotune.core.space import Unit
from inc_autotune.graphs import Feed
from inc_autotune.ort_ext.graph import LINEAR_TYPES, Graph, GraphModel, attributes
from inc_autotune.ort_ext.measurement.chained import between_integers
from inc_autotune.ort_ext.model import run_session
from inc_autotune.ort_ext.operators import RECURRENT_TYPES, Operator, Operators, after_activation, find_operators

SHORTEST_SECONDS = 100e-6
"""Units whose integer form takes less are not judged: calling a session takes 10 microseconds by itself, and there is
little to win."""

JUDGED_TYPES = (*LINEAR_TYPES, *RECURRENT_TYPES)
"""What gives floats to whoever reads it, so that it is alone what it is in the model."""

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
    clock: Clock,
    expired: Callable[[], bool],
) -> dict[str, UnitSpeed]:
    """Time every unit of linear or recurrent operators by itself; equal shapes and configurations are timed once.

    Transposed convolutions and those of groups, whose integer kernels are slower than float ones on some processors,
    are timed as they are between others: from integers to integers, against the float kernel with a DequantizeLinear
    before it and a QuantizeLinear behind. Other convolutions are not judged: their integer kernels are the faster ones,
    and a model that they make slower all the same is judged as a whole.

    Args:
        units: with an integer configuration as first option.
        graph: the fp32 model.
        operators: of that graph.
        feed: inputs of the model.
        make_session: makes the sessions.
        quantize: makes the integer form of a unit.
        clock: for the sessions.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        Speeds by unit name, without units that are too short to be judged.
    """
    members = {unit.name: [operators.found[name] for name in unit.operator_names] for unit in units}
    read = {
        unit.name: _activations(graph, members[unit.name])
        for unit in units
        if all(operator.type in JUDGED_TYPES or _is_chained(graph, operator) for operator in members[unit.name])
    }
    # An input of the model that the feed leaves at its default is not judged: sessions do not hand it out.
    hidden = graph.inputs - feed.inputs.keys()
    judged = [unit for unit in units if unit.name in read and hidden.isdisjoint(read[unit.name])]
    if not judged or expired():
        return {}
    watched = sorted({name for unit in judged for name in read[unit.name] if name not in feed.inputs})
    session = make_session(graph.model, watched)
    inputs = {**feed.inputs, **dict(zip(watched, session.run(watched, feed.inputs) if watched else (), strict=True))}

    def timed(unit: Unit) -> TimedUnit:
        operators = members[unit.name]
        alone = {name: inputs[name] for name in read[unit.name]}
        shapes = tuple(_geometry(graph, operator) for operator in operators)
        text = f"{_text(graph, operators)} on {'x'.join(map(str, inputs[operators[0].input].shape))}"
        forms = partial(_forms, graph, operators, unit, alone, make_session, quantize)
        given = tuple(value.shape for value in alone.values())
        return TimedUnit(unit.name, [TimedOperator((shapes, given, unit.options[0]), text, forms)])

    speeds = time_units(map(timed, judged), clock, shortest=SHORTEST_SECONDS, budget=BUDGET_SECONDS, expired=expired)
    return {
        name: replace(speed, is_chained=not speed.is_short and _is_chained(graph, members[name][0]))
        for name, speed in speeds.items()
    }


def _forms(
    graph: Graph,
    operators: Sequence[Operator],
    unit: Unit,
    alone: Mapping[str, Array],
    make_session: MakeSession,
    quantize: Quantize,
) -> tuple[Call, Call]:
    """Calls of a unit alone in fp32 and in integers."""
    subgraph = _subgraph(graph, operators, alone)
    quantized = quantize(subgraph, find_operators(subgraph), unit)
    forms = (subgraph.model, dict(alone)), (quantized, dict(alone))
    if _is_chained(graph, operators[0]):
        forms = between_integers(subgraph, quantized, alone)
    fp32, integer = (
        partial(run_session, make_session(model, ()), inputs, f"{unit.name} alone, {what},")
        for what, (model, inputs) in zip(("in fp32", "in integers"), forms, strict=True)
    )
    return fp32, integer


def _is_chained(graph: Graph, operator: Operator) -> bool:
    """Whether an operator passes integers on, and its kernel for them may be slower than the one for floats."""
    if operator.type == "ConvTranspose":
        return True
    return operator.type == "Conv" and attributes(graph.by_name[operator.name]).get("group", 1) > 1


def _nodes(graph: Graph, operators: Sequence[Operator]) -> list[onnx.NodeProto]:
    """The nodes of operators, with the additions of their biases, and the ReLU or Clip that their grid takes in."""
    names = [name for operator in operators for name in (operator.name, operator.bias_node) if name is not None]
    ends = [_end(graph, operator) for operator in operators]
    names += [
        graph.producers[end].name for end, operator in zip(ends, operators, strict=True) if end != operator.output
    ]
    return [graph.by_name[name] for name in names]


def _end(graph: Graph, operator: Operator) -> str:
    """The tensor that an operator passes on."""
    return after_activation(graph, operator.output) if _is_chained(graph, operator) else operator.output


def _activations(graph: Graph, operators: Sequence[Operator]) -> list[str]:
    """What operators read that is no constant, and no product of theirs, the input that they share first."""
    nodes = _nodes(graph, operators)
    made = {name for node in nodes for name in node.output}
    read = [operators[0].input, *(name for node in nodes for name in node.input)]
    return [name for name in dict.fromkeys(read) if name and name not in made and graph.shape(name) is None]


def _subgraph(graph: Graph, operators: Sequence[Operator], values: Mapping[str, Array]) -> Graph:
    """A model of operators that read the same tensor, with their biases.

    Args:
        graph: the whole model.
        operators: of that graph.
        values: of the tensors that the operators read, which become the inputs.
    """
    nodes = _nodes(graph, operators)
    nodes = [*graph.computing(name for node in nodes for name in node.input), *nodes]
    read = {name for node in nodes for name in node.input}
    proto = onnx.ModelProto(ir_version=graph.model.proto.ir_version, opset_import=graph.model.proto.opset_import)
    proto.graph.CopyFrom(
        helper.make_graph(
            nodes,
            "unit",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in values.items()
            ],
            [helper.make_empty_tensor_value_info(_end(graph, operator)) for operator in operators],
            [value for name, value in graph.initializers.items() if name in read],
        )
    )
    return Graph(GraphModel(proto, graph.model.weights, graph.model.folder))


def _geometry(graph: Graph, operator: Operator) -> Hashable:
    settings = [each.SerializeToString(deterministic=True) for each in graph.by_name[operator.name].attribute]
    form = operator.type, operator.transposed, operator.layout, operator.bias is None
    return *form, graph.shape(operator.weight), tuple(sorted(settings))


def _text(graph: Graph, operators: Sequence[Operator]) -> str:
    first = operators[0]
    more = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
    return f"{first.type} {'x'.join(map(str, graph.shape(first.weight) or ()))}{more}"
