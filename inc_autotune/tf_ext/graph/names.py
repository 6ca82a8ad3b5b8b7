"""Names that are unique over all signatures of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription


def with_unique_names(signatures: Mapping[str, SignatureGraph]) -> Mapping[str, SignatureGraph]:
    """The signatures with their name before that of every node, where there are several."""
    if len(signatures) == 1:
        return signatures
    return {name: _prefixed(each, name) for name, each in signatures.items()}


def _prefixed(signature: SignatureGraph, prefix: str) -> SignatureGraph:
    old = signature.graph_def
    graph_def = GraphDef(versions=old.versions, library=old.library)
    for node in old.node:
        new = graph_def.node.add()
        new.CopyFrom(node)
        new.name = f"{prefix}/{node.name}"
        new.input[:] = [f"^{prefix}/{each[1:]}" if each.startswith("^") else f"{prefix}/{each}" for each in node.input]
        # Nodes that must stay on one device name each other here.
        new.attr.pop("_class", None)

    def renamed(each: TensorDescription) -> TensorDescription:
        return replace(each, tensor=f"{prefix}/{each.tensor}")

    return replace(
        signature,
        graph_def=graph_def,
        weights={f"{prefix}/{name}": value for name, value in signature.weights.items()},
        inputs=tuple(map(renamed, signature.inputs)),
        outputs=tuple(map(renamed, signature.outputs)),
        tables={f"{prefix}/{name}": table for name, table in signature.tables.items()},
        body_operators={f"{prefix}/{name}": op_type for name, op_type in signature.body_operators.items()},
    )
