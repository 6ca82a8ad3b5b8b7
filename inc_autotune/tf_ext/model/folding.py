"""Computes weights that the graph computes of constants each time, where TensorFlow's own passes do not."""

from __future__ import annotations

from collections.abc import Mapping

from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from inc_autotune.tf_ext.graph import (
    OLD_CONTROL_FLOW,
    PRODUCTS,
    Graph,
    GraphBuilder,
    SignatureGraph,
    calls,
    constants_behind,
    data_inputs,
    node_name,
    reachable,
    tensor_name,
)


def with_folded_weights(signature: SignatureGraph) -> SignatureGraph:
    """The signature with a constant for each weight of a product that is computed of constants.

    TensorFlow folds no constant of more than 100 KB that grows by it: not the float32 of a weight that is stored in
    half precision or in integers, nor the product of two small matrices.
    """
    graph = Graph(signature)
    computed = _computed_weights(graph)
    if not computed:
        return signature
    values = graph.values(computed)
    builder = GraphBuilder(graph)
    names = {tensor: builder.constant(f"{node_name(tensor)}/folded", value) for tensor, value in values.items()}
    for node in graph.nodes:
        builder.keep(_reading(node, names) if node.op in PRODUCTS else node)
    return builder.build()


def _computed_weights(graph: Graph) -> list[str]:
    """Tensors that products read, which are computed of constants alone."""
    read = dict.fromkeys(tensor for node in graph.nodes if node.op in PRODUCTS for tensor in data_inputs(node))
    return [
        tensor
        for tensor in read
        if graph.constant_node(tensor) is None and constants_behind(graph, tensor) and _is_pure(graph, tensor)
    ]


def _is_pure(graph: Graph, tensor: str) -> bool:
    """Whether nothing behind a tensor is in a loop or a branch of TensorFlow 1, or may differ from run to run."""
    nodes = [graph.by_name[name] for name in reachable(graph.signature.graph_def, [node_name(tensor)])]
    definitions = [op_def_registry.get(node.op) for node in nodes]
    lasting = all(each is not None and not each.is_stateful for each in definitions)
    return lasting and not any(node.op in OLD_CONTROL_FLOW or any(True for _ in calls(node)) for node in nodes)


def _reading(node: NodeDef, names: Mapping[str, str]) -> NodeDef:
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(tensor_name(each), each) for each in node.input]
    return copy
