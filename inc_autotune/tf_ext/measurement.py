"""Size of models, and the speed of single units: each as a small model of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.feed import Feed
from inc_autotune.core.space import Unit
from inc_autotune.core.timing import PairSeconds, pair_seconds
from inc_autotune.tf_ext.analysis import Analysis
from inc_autotune.tf_ext.calibration import run_inside
from inc_autotune.tf_ext.graph import Graph, node_name, reachable
from inc_autotune.tf_ext.graph_model import Array, GraphModel, SignatureGraph, TensorDescription
from inc_autotune.tf_ext.operators import Operator
from inc_autotune.tf_ext.signatures import SignatureModel

SHORTEST_SECONDS = 300e-6
"""Units that are done sooner are not judged: a call alone takes 100 microseconds, and there is little to win."""

BUDGET_SECONDS = 2.0
"""For all units of a model together."""

Quantize: TypeAlias = Callable[[Graph, Unit], SignatureGraph]
"""Takes the part of the model that a unit is, and makes its integer form."""


def weight_bytes(model: GraphModel) -> int:
    """Bytes of all weights, those of several signatures once, and of the graphs."""
    arrays = {id(array): array.nbytes for graph in model.signatures.values() for array in graph.weights.values()}
    return sum(arrays.values()) + sum(int(graph.graph_def.ByteSize()) for graph in model.signatures.values())


def measure_units(
    units: Sequence[Unit], analysis: Analysis, feed: Feed, quantize: Quantize, expired: Callable[[], bool]
) -> dict[str, UnitSpeed]:
    """Time each unit of linear operators by itself; those of equal shapes and configuration are timed once.

    Convolutions are not judged: they hand integers on to each other, which a model of one of them does not show.

    Args:
        units: whose first option is an integer configuration.
        analysis: of the fp32 model; its first signature is judged.
        feed: inputs of that signature.
        quantize: makes the integer form of a unit.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        By unit name, without units that are too short to be judged.
    """
    graph = next(iter(analysis.graphs.values()))
    members = {unit.name: [analysis.operators[name] for name in unit.operator_names] for unit in units}
    judged = [
        unit
        for unit in units
        if all(each.is_linear and analysis.graph_of[each.name] is graph for each in members[unit.name])
    ]
    if not judged or expired():
        return {}
    deadline = time.perf_counter() + BUDGET_SECONDS

    def ended() -> bool:
        return expired() or time.perf_counter() >= deadline

    inputs = run_inside(graph.signature, sorted({members[unit.name][0].input for unit in judged}), feed)
    known: dict[Hashable, PairSeconds | None] = {}
    speeds: dict[str, UnitSpeed] = {}
    for unit in judged:
        value = inputs[members[unit.name][0].input]
        key = (tuple(_geometry(graph, each) for each in members[unit.name]), value.shape, unit.options[0])
        if key not in known:
            if ended():
                break
            part = _part(graph, members[unit.name], value)
            fp32, integer = (_call(each, value) for each in (part, quantize(Graph(part), unit)))
            known[key] = pair_seconds(fp32, integer, time.perf_counter, shortest=SHORTEST_SECONDS, ended=ended)
        taken = known[key]
        if taken is not None:
            text = f"{_text(graph, members[unit.name])} on {'x'.join(map(str, value.shape))}"
            speeds[unit.name] = UnitSpeed(taken.fp32 / taken.integer, text)
    return speeds


def _part(graph: Graph, operators: Sequence[Operator], value: Array) -> SignatureGraph:
    """A signature of some operators that read the same tensor, with their epilogues."""
    source = operators[0].input
    name = node_name(source)
    old = graph.signature
    cut = GraphDef(versions=old.graph_def.versions, library=old.graph_def.library)
    for node in old.graph_def.node:
        if node.name != name:
            cut.node.add().CopyFrom(node)
    given = cut.node.add(op="Placeholder", name=name)
    given.attr["dtype"].type = tf.float32.as_datatype_enum
    given.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    needed = reachable(cut, [name, *(node_name(each.output) for each in operators)])
    part = GraphDef(versions=cut.versions, library=cut.library)
    part.node.extend(node for node in cut.node if node.name in needed)
    return replace(
        old,
        graph_def=part,
        weights={key: weight for key, weight in old.weights.items() if key in needed},
        inputs=(TensorDescription("x", tf.float32, value.shape, f"{name}:0"),),
        outputs=tuple(TensorDescription(each.name, tf.float32, None, f"{each.output}:0") for each in operators),
    )


def _call(signature: SignatureGraph, value: Array) -> Callable[[], object]:
    model = SignatureModel(GraphModel({signature.name: signature}))
    return partial(model.signatures[signature.name], tf.constant(value))


def _geometry(graph: Graph, operator: Operator) -> Hashable:
    function = operator.epilogue.function
    return operator.type, graph.shape(operator.weight), operator.transposed, function and function.kind


def _text(graph: Graph, operators: Sequence[Operator]) -> str:
    first = operators[0]
    more = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
    return f"{first.type} {'x'.join(map(str, graph.shape(first.weight) or ()))}{more}"
