"""Weights that are read by no product or convolution, and what each operator reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.graphs import content
from inc_autotune.tf_ext.graph import Graph, data_inputs, node_name
from inc_autotune.tf_ext.operators.bodies import inner_operators

LOOKUPS = ("GatherV2", "Gather", "GatherNd", "ResourceGather")

FUNCTION_CALLS = ("While", "StatelessWhile", "If", "StatelessIf", "Case", "PartitionedCall", "StatefulPartitionedCall")

_ELEMENTWISE = (
    "Abs Add AddN AddV2 BiasAdd BroadcastTo Cast ConcatV2 Div DivNoNan Exp ExpandDims Fill Greater "
    "GreaterEqual Identity IdentityN Less LessEqual Log Maximum Mean Minimum Mul Neg NoOp Pack Pad PadV2 "
    "Pow RealDiv Relu Reshape Rsqrt Select SelectV2 Shape Sigmoid Slice Softmax Split SplitV Sqrt Square "
    "SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack Where"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Move numbers or combine them one by one: their constants are offsets, factors and masks, no weights."""


@dataclass(frozen=True)
class Weights:
    """The weights of a graph.

    Attributes:
        by_operator: elements by a key of the weight, by the name of each node that reads weights, also of those that an
            operand is computed from. A weight is a constant of floats with two dimensions, or with more of which two
            are longer than 1.
        others: (type, reason) by name, of nodes that are no known operators and read weights all the same.
    """

    by_operator: Mapping[str, Mapping[Hashable, int]]
    others: Mapping[str, tuple[str, str]]


def find_weights(graph: Graph, known: Collection[str], callers: Collection[str] = ()) -> Weights:
    """Look for all weights.

    Args:
        graph: of a signature, or of a function in it.
        known: names of the nodes of operators that are found or skipped already.
        callers: names of the nodes whose functions are graphs of their own, and are looked at by themselves.
    """
    constants: dict[str, frozenset[str]] = {}
    read: dict[str, dict[Hashable, int]] = {}
    for node in graph.nodes:
        given = [node_name(each) for each in data_inputs(node)]
        if node.op == "Const" or node.name in graph.signature.weights:
            constants[node.name] = frozenset({node.name})
        elif given and node.op not in FUNCTION_CALLS and all(name in constants for name in given):
            constants[node.name] = frozenset().union(*(constants[name] for name in given))
        elif node.name not in callers and (node.op not in ELEMENTWISE or node.name in known):
            sources = sorted(frozenset().union(*(constants.get(name, frozenset()) for name in given)))
            own = {key: size for key, size in (_weight(graph, name) for name in sources) if size}
            if own:
                read[node.name] = own
    for name, (caller, own) in _inner_weights(graph, known).items():
        if own:
            read[name] = own
            of_caller = read.get(caller, {})  # what an operator inside reads, its caller does not
            for key in own.keys() & of_caller.keys():
                del of_caller[key]
    read = {name: own for name, own in read.items() if own}
    others = {name: graph.by_name[name] for name in read if name not in known}
    return Weights(read, {name: (node.op, _reason(node)) for name, node in others.items()})


def _inner_weights(graph: Graph, known: Collection[str]) -> dict[str, tuple[str, dict[Hashable, int]]]:
    """The caller and the weights of the known operators inside functions, by the path to them."""
    return {
        path: (
            inner.caller,
            {
                key: size
                for key, size in (
                    *(_weight(graph, name) for name in inner.weights),
                    *map(_inner_weight, inner.constants),
                )
                if size
            },
        )
        for path, inner in inner_operators(graph).items()
        if path in known
    }


def _weight(graph: Graph, name: str) -> tuple[Hashable, int]:
    """A key and the elements of a constant; no elements where it is no weight.

    By content, since graphs may hold one weight several times; hashed once, however many read it.
    """
    node, value = graph.by_name[name], graph.signature.weights.get(name)
    size = _elements(node, _sizes(node) if value is None else value.shape)
    return (graph.origin(name) if size else name), size


def _inner_weight(node: NodeDef) -> tuple[Hashable, int]:
    """The same for a constant inside of a function."""
    size = _elements(node, _sizes(node))
    return (content(tf.make_ndarray(node.attr["value"].tensor)) if size else node.name), size


def _sizes(node: NodeDef) -> list[int]:
    return [size.size for size in node.attr["value"].tensor.tensor_shape.dim]


def _elements(node: NodeDef, sizes: Sequence[int]) -> int:
    is_matrix = len(sizes) == 2 or sum(size > 1 for size in sizes) > 1
    return math.prod(sizes) if is_matrix and tf.as_dtype(node.attr["dtype"].type).is_floating else 0


def _reason(node: NodeDef) -> str:
    if node.op in LOOKUPS:
        return "a table that is looked up stays as it is"
    if node.op in FUNCTION_CALLS:
        return f"a {node.op} stays as it is, with all that it computes"
    return f"TensorFlow has no integer kernel for {node.op}"
