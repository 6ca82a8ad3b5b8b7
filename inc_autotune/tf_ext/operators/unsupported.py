"""Products of weights that have no quantized form here."""

from __future__ import annotations

from collections.abc import Mapping

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph import OLD_CONTROL_FLOW, PRODUCTS, WITHOUT_KERNEL, Graph, constants_behind, data_inputs
from inc_autotune.tf_ext.operators.bodies import inner_operators

TWO_ACTIVATIONS = "multiplies two activations, for which TensorFlow has no integer kernel"


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
