"""Size of models, the clock of a run, and the speed of single units; a unit is timed as a small model of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import Call, Clock, TimedOperator, TimedUnit, seconds, time_units
from inc_autotune.core.arrays import Array
from inc_autotune.core.space import Unit
from inc_autotune.graphs import Feed, WeightCache
from inc_autotune.tf_ext.calibration import QuantizationPlan, run_inside
from inc_autotune.tf_ext.emission import IntegerChains, build_signature
from inc_autotune.tf_ext.graph import Graph, GraphModel, SignatureGraph, TensorDescription, placeholder
from inc_autotune.tf_ext.measurement.subgraph import Subgraph
from inc_autotune.tf_ext.model import SignatureModel
from inc_autotune.tf_ext.operators import DEPTHWISE, Operator, find_operators

SHORTEST_CALLS = 3.0
"""Units whose integer form takes less than this many calls of a model that computes nothing are not judged: there is
little to win, and a call takes 100 microseconds, or many times that on a busy machine."""

BUDGET_SECONDS = 2.0
"""For all units of a model together."""


def clock() -> Clock:
    """The clock for runs of a model.

    TensorFlow never computes in the calling thread. If it has one thread, the CPU time of the process is the time of
    the run, unaffected by other processes. With several threads, which wait for each other, wall time.
    """
    threading = tf.config.threading
    counts = {threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()}
    return time.process_time if counts == {1} else time.perf_counter


def weight_bytes(model: GraphModel) -> int:
    """Bytes of all weights and of the graphs; weights that signatures share count once."""
    arrays = {id(array): array.nbytes for graph in model.signatures.values() for array in graph.weights.values()}
    return sum(arrays.values()) + sum(int(graph.graph_def.ByteSize()) for graph in model.signatures.values())


def measure_units(
    units: Sequence[Unit],
    graph: Graph,
    operators: Mapping[str, Operator],
    plan: QuantizationPlan,
    feed: Feed,
    expired: Callable[[], bool],
) -> dict[str, UnitSpeed]:
    """Time every unit by itself; units with equal shapes and configuration are timed once.

    Convolutions that read integers from other nodes, or return integers to them, are not judged: a model of one
    convolution does not show what that saves.

    Args:
        units: with an integer configuration as first option.
        graph: of the fp32 model; units of other graphs are not judged.
        operators: of that graph, by name.
        plan: with every unit at its first option.
        feed: inputs of the model.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        Speeds by unit name, without units that are too short to be judged.
    """
    chains = IntegerChains(graph, operators, plan)
    judged = {
        unit: [operators[name] for name in unit.operator_names]
        for unit in units
        if all(name in operators and _stands_alone(chains, operators[name]) for name in unit.operator_names)
    }
    if not judged or expired():
        return {}
    subgraphs = {unit: Subgraph(graph, members) for unit, members in judged.items()}
    read = sorted({tensor for subgraph in subgraphs.values() for tensor in subgraph.read})
    values = run_inside(graph.signature, read, feed)
    weights = WeightCache()
    timed = (
        TimedUnit(
            unit.name,
            [
                TimedOperator(
                    (
                        *(_geometry(graph, operator) for operator in judged[unit]),
                        values[subgraph.source].shape,
                        unit.options[0],
                    ),
                    f"{_text(graph, judged[unit])} on {'x'.join(map(str, values[subgraph.source].shape))}",
                    partial(_forms, subgraph, values, plan, weights),
                )
            ],
        )
        for unit, subgraph in subgraphs.items()
    )
    shortest = SHORTEST_CALLS * _seconds_of_a_call()
    return time_units(timed, clock(), shortest=shortest, budget=BUDGET_SECONDS, expired=expired)


def _stands_alone(chains: IntegerChains, operator: Operator) -> bool:
    """Whether an operator quantizes its input and returns float32."""
    if operator.is_linear:
        return True
    returns_integers = chains.required_range(operator.output) is not None or operator.name in chains.residuals
    return operator.type != DEPTHWISE and not returns_integers and not chains.makes_integers(operator.input)


def _forms(
    subgraph: Subgraph, values: Mapping[str, Array], plan: QuantizationPlan, weights: WeightCache
) -> tuple[Call, Call]:
    """Calls of a subgraph in fp32 and in integers."""
    fp32 = subgraph.signature(values)
    graph = Graph(fp32)
    integer = build_signature(graph, find_operators(graph).found, plan, weights)
    source = tf.constant(values[subgraph.source])
    return _call(fp32, source), _call(integer, source)


def _call(signature: SignatureGraph, source: tf.Tensor) -> Call:
    return partial(SignatureModel(GraphModel({signature.name: signature})).default, source)


def _seconds_of_a_call() -> float:
    """Seconds of a call of a model that computes nothing."""
    graph_def = GraphDef()
    placeholder(graph_def, "x", tf.float32, ())
    graph_def.node.add(op="Identity", name="y", input=["x"]).attr["T"].type = tf.float32.as_datatype_enum
    given, made = (TensorDescription(name, tf.float32, (), f"{name}:0") for name in ("x", "y"))
    call = _call(SignatureGraph("nothing", graph_def, {}, (given,), (made,), True, {}), tf.constant(0.0))
    call()  # to warm up
    return statistics.median(seconds(call, clock()) for _ in range(9))


def _geometry(graph: Graph, operator: Operator) -> Hashable:
    function = operator.epilogue.function
    attributes = tuple(sorted((key, value.SerializeToString()) for key, value in operator.node.attr.items()))
    return operator.type, graph.shape(operator.weight), attributes, function and function.kind


def _text(graph: Graph, operators: Sequence[Operator]) -> str:
    first = operators[0]
    more = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
    return f"{first.type} {'x'.join(map(str, graph.shape(first.weight) or ()))}{more}"
