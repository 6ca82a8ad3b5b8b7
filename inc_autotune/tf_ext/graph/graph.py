"""The nodes of a signature, its constants, and which node reads which tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import content
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph

COPIES = ("Identity", "StopGradient", "PreventGradient", "Snapshot")
"""Operators that return their input unchanged."""


class Graph:
    """A read-only view of a signature: its nodes in an order in which they can run, and the tensors between them.

    A tensor is named as in a GraphDef: `node` for the first output of a node, `node:1` for the second.
    """

    def __init__(self, signature: SignatureGraph) -> None:
        self.signature = signature
        self.by_name: Mapping[str, NodeDef] = {node.name: node for node in signature.graph_def.node}
        self.nodes: Sequence[NodeDef] = [self.by_name[name] for name in _order(self.by_name)]
        self._origins: dict[str, str] = {}
        self.outputs = frozenset(tensor_name(each.tensor) for each in signature.outputs)

    @cached_property
    def consumers(self) -> Mapping[str, Sequence[NodeDef]]:
        """The nodes that read each tensor; a node that reads a tensor twice is listed twice."""
        found: dict[str, list[NodeDef]] = {}
        for node in self.nodes:
            for tensor in data_inputs(node):
                found.setdefault(tensor, []).append(node)
        return found

    @cached_property
    def _waited_for(self) -> frozenset[str]:
        """Nodes that are a control input of another node, which runs after them."""
        return frozenset(name[1:] for node in self.nodes for name in node.input if name.startswith("^"))

    def producer(self, tensor: str) -> NodeDef:
        """The node that makes a tensor."""
        return self.by_name[node_name(tensor)]

    def only_consumer(self, tensor: str) -> NodeDef | None:
        """The node that alone reads a tensor; None if several nodes read it or wait for it, or it is an output."""
        readers = self.consumers.get(tensor, ())
        free = tensor not in self.outputs and node_name(tensor) not in self._waited_for
        return readers[0] if len(readers) == 1 and free else None

    def constant_node(self, tensor: str) -> str | None:
        """Name of the node with the constant that a tensor is a copy of; None if the tensor is computed."""
        node = self.producer(tensor)
        while node.op in COPIES:
            node = self.producer(tensor_name(node.input[0]))
        return node.name if node.op == "Const" or node.name in self.signature.weights else None

    def constant(self, tensor: str) -> Array | None:
        """The value of a constant tensor, read-only if it is a weight; None if the tensor is computed."""
        name = self.constant_node(tensor)
        if name is None:
            return None
        weight = self.signature.weights.get(name)
        return tf.make_ndarray(self.by_name[name].attr["value"].tensor) if weight is None else weight

    def origin(self, tensor: str) -> str:
        """A hash of what a constant tensor holds, worked out once; equal constants have the same."""
        name = self.constant_node(tensor)
        assert name is not None
        if name not in self._origins:
            self._origins[name] = content(self.constant(tensor))
        return self._origins[name]

    def scalar(self, tensor: str) -> float | None:
        """The value of a float constant with one element; None for every other tensor."""
        value = self.constant(tensor)
        return float(value.reshape(())) if value is not None and value.size == 1 and value.dtype.kind == "f" else None

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """The shape of a tensor as far as it can be inferred, None for unknown sizes; None if the rank is not known."""
        shape = self._imported.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0").shape
        return None if shape.rank is None else tuple(shape.as_list())

    def values(self, tensors: Sequence[str]) -> dict[str, Any]:
        """What tensors are that are computed of constants alone."""
        if not tensors:
            return {}
        fetched = [tensor if ":" in tensor else f"{tensor}:0" for tensor in tensors]
        with tf.compat.v1.Session(graph=self._imported) as session:
            given = {f"{name}:0": value for name, value in self.signature.weights.items()}
            return dict(zip(tensors, session.run(fetched, given), strict=True))

    @cached_property
    def _imported(self) -> Any:
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(self.signature.graph_def, name="")
        return graph


def tensor_name(tensor: str) -> str:
    """A tensor's name as in a GraphDef: without the `:0` of a first output."""
    return tensor.removesuffix(":0")


def node_name(tensor: str) -> str:
    """The node that makes a tensor."""
    return tensor.split(":")[0]


def data_inputs(node: NodeDef) -> Iterator[str]:
    """Names of the tensors that a node reads, without control inputs."""
    return (tensor_name(name) for name in node.input if not name.startswith("^"))


def reachable(graph_def: GraphDef, ends: Sequence[str]) -> set[str]:
    """Names of the nodes that `ends` depend on, which are node names, and of `ends`."""
    by_name = {node.name: node for node in graph_def.node}
    found: set[str] = set()
    left = list(ends)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [node_name(each.lstrip("^")) for each in by_name[name].input]
    return found


def _order(nodes: Mapping[str, NodeDef]) -> Iterator[str]:
    """Node names, sorted so that every node follows its inputs; back edges of TensorFlow 1 loops are left out."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for node in nodes.values():
        sources = [node_name(each.lstrip("^")) for each in node.input]
        sorter.add(
            node.name, *(name for name in sources if nodes[name].op not in ("NextIteration", "RefNextIteration"))
        )
    return iter(tuple(sorter.static_order()))
