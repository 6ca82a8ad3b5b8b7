"""Products of weights that have no quantized form here, and how much of the model they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph.graph import Graph, data_inputs
from inc_autotune.tf_ext.graph.weights_behind import OLD_CONTROL_FLOW, PRODUCTS, WITHOUT_KERNEL, constants_behind
from inc_autotune.tf_ext.operators.bodies import inner_operators

TWO_ACTIVATIONS = "multiplies two activations, for which TensorFlow has no integer kernel"

SMALLEST_SHARE = 0.01
"""Of the weights; what has less is not worth a number."""


def unsupported_reason(graph: Graph, node: NodeDef) -> str | None:
    """Why a product without integer kernel stays in fp32; None for every other operator.

    A sum over what a constant matrix is multiplied by is a product too.
    """
    if node.op in WITHOUT_KERNEL:
        has_weight = any(constants_behind(graph, each) for each in data_inputs(node))
        return f"TensorFlow has no integer kernel for {node.op}" if has_weight else TWO_ACTIVATIONS
    if node.op == "Mul" and _is_summed(graph, node) and _is_matrix(graph, node):
        return "a product written as Mul and Sum, which no integer kernel computes; write it as a matrix product"
    return None


def computed_weight_reason(graph: Graph, tensor: str) -> str | None:
    """Why a weight that is computed of constants is none; None where it depends on an input of the model."""
    if not constants_behind(graph, tensor):
        return None
    node = graph.producer(tensor)
    if node.op in OLD_CONTROL_FLOW:
        place = "loop" if "Enter" in node.op else "branch"
        return f"it is inside a {place} of TensorFlow 1, control flow that stays as it is"
    return f"its weight is made by {node.op}, each time anew"


def body_reasons(graph: Graph) -> Mapping[str, tuple[str, str]]:
    """(type, reason) of the products inside functions that stay as they are, by the path to them."""
    return {
        path: (each.node.op, each.reason) for path, each in inner_operators(graph).items() if each.node.op in PRODUCTS
    }


class Shares:
    """How much of the weights of a graph each operator has.

    Args:
        graph: one signature.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._inner = inner_operators(graph)
        inside = {each.name: each for inner in self._inner.values() for each in inner.constants}
        outside = {node.name: self._bytes_of(node.name) for node in graph.nodes}
        self._total = sum(outside.values()) + sum(map(_constant_bytes, inside.values()))

    def of(self, name: str) -> float:
        """Part of the bytes of all floating-point constants that an operator reads; 0 where there is none."""
        inner = self._inner.get(name)
        if inner is not None:
            size = sum(map(self._bytes_of, inner.weights)) + sum(map(_constant_bytes, inner.constants))
        else:
            size = self._read_by(name)
        return size / max(self._total, 1)

    def with_share(self, name: str, reason: str) -> str:
        """A reason with the share that an operator has, where it is one to speak of."""
        share = self.of(name)
        return f"{reason} ({100 * share:.0f} % of the weights)" if share >= SMALLEST_SHARE else reason

    def _read_by(self, name: str) -> int:
        node = self._graph.by_name.get(name)
        constants = () if node is None else (constants_behind(self._graph, each) for each in data_inputs(node))
        return self._bytes({each for names in constants for each in names})

    def _bytes(self, constants: Iterable[str]) -> int:
        return sum(map(self._bytes_of, constants))

    def _bytes_of(self, name: str) -> int:
        """Of a constant of the graph."""
        weight = self._graph.signature.weights.get(name)
        if weight is None:
            return _constant_bytes(self._graph.by_name[name])
        return int(weight.nbytes) if tf.as_dtype(weight.dtype).is_floating else 0


def _constant_bytes(node: NodeDef) -> int:
    """Of a floating-point constant; 0 of every other node."""
    if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return 0
    tensor = node.attr["value"].tensor
    shape = tf.TensorShape(tensor.tensor_shape)
    return int(shape.num_elements() or 0) * int(tf.as_dtype(tensor.dtype).size)


def _is_summed(graph: Graph, node: NodeDef) -> bool:
    reader = graph.only_consumer(node.name)
    return reader is not None and reader.op in ("Sum", "Mean")


def _is_matrix(graph: Graph, node: NodeDef) -> bool:
    """Whether one factor is a constant with more than one dimension, and the other is not constant."""
    factors = [constants_behind(graph, each) for each in data_inputs(node)]
    if sum(map(bool, factors)) != 1:
        return False
    tensor = next(each for each, found in zip(data_inputs(node), factors, strict=True) if found)
    shape = graph.shape(tensor)
    return shape is not None and sum(size != 1 for size in shape) > 1
