"""Names that are unique over all signatures of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription


def with_unique_names(signatures: Mapping[str, SignatureGraph]) -> Mapping[str, SignatureGraph]:
    """The signatures with their name as a prefix of every node name; a single signature stays as it is."""
    if len(signatures) == 1:
        return signatures
    return {name: _prefixed(signature, name) for name, signature in signatures.items()}


def _prefixed(signature: SignatureGraph, prefix: str) -> SignatureGraph:
    old = signature.graph_def
    graph_def = GraphDef(versions=old.versions, library=old.library)
    for node in old.node:
        new = graph_def.node.add()
        new.CopyFrom(node)
        new.name = f"{prefix}/{node.name}"
        new.input[:] = [f"^{prefix}/{name[1:]}" if name.startswith("^") else f"{prefix}/{name}" for name in node.input]
        # The old names of nodes that must be on the same device.
        new.attr.pop("_class", None)

    def renamed(description: TensorDescription) -> TensorDescription:
        return replace(description, tensor=f"{prefix}/{description.tensor}")

    return replace(
        signature,
        graph_def=graph_def,
        weights={f"{prefix}/{name}": value for name, value in signature.weights.items()},
        inputs=tuple(map(renamed, signature.inputs)),
        outputs=tuple(map(renamed, signature.outputs)),
        tables={f"{prefix}/{name}": table for name, table in signature.tables.items()},
        body_operators={f"{prefix}/{name}": op_type for name, op_type in signature.body_operators.items()},
    )
