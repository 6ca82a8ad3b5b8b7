"""Whether the nodes of a model fit together, found before anything depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph import bodies

_REMEDY = "onnx.checker.check_model(model) says more. Export the model again."


def check_structure(proto: ModelProto) -> None:
    """Refuse a graph that no runtime can load, for reasons that a runtime's own message does not make clear.

    Args:
        proto: a model whose weights may be only headers.

    Raises:
        ModelError: it has no outputs; a tensor is made twice, or read and made nowhere; or a node has fewer inputs or
            outputs than its type needs.
    """
    if not proto.graph.output:
        raise ModelError(f"model: its graph has no outputs, so there is nothing to compute. {_REMEDY}")
    versions = {"ai.onnx" if not each.domain else each.domain: each.version for each in proto.opset_import}
    _check_graph(proto.graph, frozenset(), versions.get("ai.onnx", 1))


def _check_graph(graph: GraphProto, outside: frozenset[str], opset: int) -> None:
    stored = [each.name for each in graph.initializer] + [each.values.name for each in graph.sparse_initializer]
    made = [name for node in graph.node for name in node.output if name]
    _check_made_once(stored, "initializers have")
    _check_made_once([*made, *{*stored, *(each.name for each in graph.input)}], "tensors have")
    known = outside | {*stored, *made, *(each.name for each in graph.input)}
    for node in graph.node:
        _check_arity(node, opset)
        missing = next((name for name in node.input if name and name not in known), None)
        if missing is not None:
            raise ModelError(f"model: {_text(node)} reads {missing!r}, which nothing makes. {_REMEDY}")
        for _, body in bodies(node):
            _check_graph(body, known, opset)
    for output in graph.output:
        if output.name not in known:
            raise ModelError(f"model: nothing makes the output {output.name!r}. {_REMEDY}")


def _check_made_once(names: Iterable[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ModelError(f"model: {what} the same name: {', '.join(map(repr, twice[:5]))}. {_REMEDY}")


def _check_arity(node: NodeProto, opset: int) -> None:
    """Whether a standard operator has what it cannot do without."""
    if not node.output:
        raise ModelError(f"model: {_text(node)} has no output. {_REMEDY}")
    if node.domain not in ("", "ai.onnx"):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return  # onnxruntime says that it does not know it
    given = max((place for place, name in enumerate(node.input, start=1) if name), default=0)
    if given < schema.min_input:
        raise ModelError(
            f"model: {_text(node)} has {given} inputs, a {node.op_type} needs at least {schema.min_input}. {_REMEDY}"
        )


def _text(node: NodeProto) -> str:
    return f"{node.name!r}, a {node.op_type}," if node.name else f"a {node.op_type} without a name"
