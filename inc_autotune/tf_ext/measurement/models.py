"""Size of models, the clock of a run, and the speed of single units; a unit is timed as a small model of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import Call, Clock, TimedOperator, TimedUnit, seconds, time_units
from inc_autotune.core.arrays import Array
from inc_autotune.core.space import Unit
from inc_autotune.graphs import Feed, WeightCache
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan, run_inside, run_steps
from inc_autotune.tf_ext.emission import IntegerChains, build_signature
from inc_autotune.tf_ext.graph import Graph, GraphModel, SignatureGraph, TensorDescription, placeholder
from inc_autotune.tf_ext.measurement.repeated import repeated
from inc_autotune.tf_ext.measurement.subgraph import Subgraph
from inc_autotune.tf_ext.model import SignatureModel
from inc_autotune.tf_ext.operators import DEPTHWISE, LOOKUP, Operator, find_operators

SHORTEST_CALLS = 3.0
"""Units whose integer form takes less than this many calls of a model that computes nothing are not judged: there is
little to win, and a call takes 100 microseconds."""

BUDGET_SECONDS = 2.0
"""For all units of a model together."""


def clock() -> Clock:
    """The clock for runs of a model: the CPU time of the process, unaffected by other processes.

    TensorFlow never computes in the calling thread, and its number of threads is fixed once it has run. The CPU time of
    all of them together is that of one thread: unlike those of OpenMP, its threads hardly wait in a loop.
    """
    return time.process_time


def has_one_thread() -> bool:
    """Whether TensorFlow computes in a single thread."""
    threading = tf.config.threading
    return {threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()} == {1}


def weight_bytes(model: GraphModel) -> int:
    """Bytes of all weights and of the graphs; weights that signatures share count once."""
    arrays = {id(array): array.nbytes for graph in model.signatures.values() for array in graph.weights.values()}
    return sum(arrays.values()) + sum(int(graph.graph_def.ByteSize()) for graph in model.signatures.values())


def measure_units(
    units: Sequence[Unit], analysis: Analysis, plan: QuantizationPlan, feed: Feed, expired: Callable[[], bool]
) -> dict[str, UnitSpeed]:
    """Time every unit by itself; units with equal shapes and configuration are timed once.

    A unit in the body of a loop is timed in a loop with as many steps. Convolutions that read integers from other
    nodes, or return integers to them, are not judged: a model of one convolution does not show what that saves.

    Args:
        units: with an integer configuration as first option.
        analysis: of the fp32 model; units of other signatures than the first are not judged.
        plan: with every unit at its first option.
        feed: inputs of the model.
        expired: asked between measurements; once true, or once `BUDGET_SECONDS` are spent, the rest is left out.

    Returns:
        Speeds by unit name, without units that are too short to be judged.
    """
    signature = next(iter(analysis.graphs))
    subgraphs: dict[Unit, Subgraph] = {}
    for graph in analysis.graphs_in(signature):
        operators = analysis.operators_of(graph)
        chains = IntegerChains(graph, operators, plan)
        for unit in units:
            if all(name in operators and _stands_alone(chains, operators[name]) for name in unit.operator_names):
                subgraphs[unit] = Subgraph(graph, [operators[name] for name in unit.operator_names])
    if not subgraphs or expired():
        return {}
    calls = _calls(subgraphs, analysis.graphs[signature], feed)
    weights = WeightCache()
    timed = (
        TimedUnit(
            unit.name,
            [
                TimedOperator(
                    (
                        *(_geometry(subgraph.graph, operator) for operator in subgraph.operators),
                        calls[unit].shape,
                        calls[unit].times,
                        unit.options[0],
                    ),
                    f"{_text(subgraph)} on {'x'.join(map(str, calls[unit].shape))}{calls[unit].text}",
                    partial(_forms, subgraph, calls[unit], plan, weights),
                )
            ],
        )
        for unit, subgraph in subgraphs.items()
        if unit in calls
    )
    shortest = SHORTEST_CALLS * _seconds_of_a_call()
    return time_units(timed, clock(), shortest=shortest, budget=BUDGET_SECONDS, expired=expired)


@dataclass(frozen=True)
class _Calls:
    """How a subgraph is run in one run of the model.

    Args:
        values: what it reads, by tensor.
        shape: of its source.
        times: in the body of a loop, how often; None: once, outside.
    """

    values: Mapping[str, Array]
    shape: tuple[int, ...]
    times: int | None

    @property
    def text(self) -> str:
        return "" if self.times is None else f", {self.times} steps"


def _calls(subgraphs: Mapping[Unit, Subgraph], graph: Graph, feed: Feed) -> dict[Unit, _Calls]:
    """The calls of the subgraphs, without those that are not run, or whose inputs are not known.

    Args:
        subgraphs: of a signature and the functions in it.
        graph: of the signature.
        feed: inputs of the model.
    """
    outside = {unit: each for unit, each in subgraphs.items() if each.graph is graph}
    # Of what is inside a function only the rows of the input are known.
    inside = {
        unit: each
        for unit, each in subgraphs.items()
        if unit not in outside and each.read == {each.source} and len(each.graph.shape(each.source) or ()) == 2
    }
    values = run_inside(graph.signature, sorted({tensor for each in outside.values() for tensor in each.read}), feed)
    steps = run_steps(graph.signature, sorted({each.source for each in inside.values()}), feed) if inside else {}
    found = {
        unit: _Calls(values, values[each.source].shape, None)
        for unit, each in outside.items()
        if values[each.source].size  # a branch of TensorFlow 1 that is not taken leaves nothing
    }
    for unit, each in inside.items():
        first = next((step for step in steps[each.source] if step.size), None)
        if first is not None:
            found[unit] = _Calls({each.source: first}, first.shape, len(steps[each.source]))
    return found


def _stands_alone(chains: IntegerChains, operator: Operator) -> bool:
    """Whether an operator quantizes its input and returns float32."""
    if operator.is_linear:
        return True
    returns_integers = operator.may_return_integers and (
        chains.required_range(operator.output) is not None or operator.name in chains.residuals
    )
    alone = operator.type not in (DEPTHWISE, LOOKUP) and not returns_integers
    return alone and not chains.makes_integers(operator.input)


def _forms(subgraph: Subgraph, calls: _Calls, plan: QuantizationPlan, weights: WeightCache) -> tuple[Call, Call]:
    """Calls of a subgraph in fp32 and in integers."""
    fp32 = subgraph.signature(calls.values)
    graph = Graph(fp32)
    integer = build_signature(graph, find_operators(graph).found, plan, weights)
    source = tf.constant(calls.values[subgraph.source])
    return _call(fp32, source, calls.times), _call(integer, source, calls.times)


def _call(signature: SignatureGraph, source: tf.Tensor, times: int | None = None) -> Call:
    model = SignatureModel(GraphModel({signature.name: signature})).default
    return partial(model, source) if times is None else repeated(model, source, times)


def _seconds_of_a_call() -> float:
    """Seconds of a call of a model that computes nothing."""
    graph_def = GraphDef()
    placeholder(graph_def, "x", tf.float32, ())
    graph_def.node.add(op="Identity", name="y", input=["x"]).attr["T"].type = tf.float32.as_datatype_enum
    given, made = (TensorDescription(name, tf.float32, (), f"{name}:0") for name in ("x", "y"))
    call = _call(SignatureGraph("nothing", graph_def, {}, (given,), (made,), True, {}), tf.constant(0.0))
    call()  # to warm up
    return min(seconds(call, clock()) for _ in range(50))


def _geometry(graph: Graph, operator: Operator) -> Hashable:
    function = operator.epilogue.function
    attributes = tuple(sorted((key, value.SerializeToString()) for key, value in operator.node.attr.items()))
    return operator.type, graph.shape(operator.weight), attributes, function and function.kind


def _text(subgraph: Subgraph) -> str:
    first, count = subgraph.operators[0], len(subgraph.operators)
    more = f" and {count - 1} more" if count > 1 else ""
    return f"{first.type} {'x'.join(map(str, subgraph.graph.shape(first.weight) or ()))}{more}"
