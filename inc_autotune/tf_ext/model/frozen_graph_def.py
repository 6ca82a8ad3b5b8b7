"""Frozen graphs of TensorFlow 1: a GraphDef whose inputs and outputs nobody declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, ModelError, did_you_mean
from inc_autotune.tf_ext.graph import SignatureGraph, TensorDescription
from inc_autotune.tf_ext.model.freezing import described, signature_graph
from inc_autotune.tf_ext.model.structure_check import check_structure

Names = Sequence[str] | Mapping[str, str]

_VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
_NO_RESULT = ("Assert", "Const", "NoOp", "Placeholder", "PlaceholderWithDefault")


def read_graph_def(path: Path) -> GraphDef:
    """The GraphDef of a file.

    Raises:
        ModelError: it holds none.
    """
    graph_def = GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"model={str(path)!r}: holds no GraphDef ({error}). Allowed: a frozen graph.") from error
    if not graph_def.node:
        raise ModelError(f"model={str(path)!r}: holds no GraphDef, or one without nodes.")
    return graph_def


def graph_def_signature(name: str, graph_def: GraphDef, inputs: Names | None, outputs: Names | None) -> SignatureGraph:
    """A frozen graph as a signature.

    Args:
        name: of the signature.
        graph_def: with weights as constants.
        inputs: names of tensors such as `x:0` or `x`, which become names of inputs without the `:0`; or a dict from
            names of inputs to them. None: all placeholders.
        outputs: the same for outputs. None: what no other operator reads.

    Raises:
        ArgumentError: there is no such tensor.
        ModelError: the graph has variables, cannot be imported, or has no inputs or outputs.
    """
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        if names is not None and not _are_names(names):
            raise ArgumentError(f"signatures[{name!r}][{kind!r}]={shown(names)}. Allowed: a list or dict of names.")
    variables = [node.name for node in graph_def.node if node.op in _VARIABLES]
    if variables:
        raise ModelError(
            f"model: the graph has variables, such as {variables[0]!r}. Freeze it first, or give a SavedModel."
        )
    check_structure(graph_def)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise ModelError(f"model: TensorFlow cannot import the graph: {error}") from error
    found_inputs = inputs or [node.name for node in graph_def.node if node.op == "Placeholder"]
    found_outputs = outputs or _ends(graph)
    for kind, found in (("inputs", found_inputs), ("outputs", found_outputs)):
        if not found:
            raise ModelError(f"model: the graph has no {kind}. {_how_to_declare(name)}")
    starts, ends = _tensors(graph, found_inputs, "inputs"), _tensors(graph, found_outputs, "outputs")
    return signature_graph(name, graph_def, starts, ends, ordered=True)


def _are_names(names: object) -> bool:
    listed = [*names, *names.values()] if isinstance(names, Mapping) else names
    return isinstance(listed, list | tuple) and all(isinstance(each, str) for each in listed)


def _how_to_declare(name: str) -> str:
    return f"Declare them: signatures={{{name!r}: {{'inputs': ['x:0'], 'outputs': ['y:0']}}}}."


def _ends(graph: Any) -> list[str]:
    return [
        operation.name
        for operation in graph.get_operations()
        if operation.type not in _NO_RESULT
        and operation.outputs
        and not any(each.consumers() for each in operation.outputs)
    ]


def _tensors(graph: Any, names: Names, kind: str) -> list[TensorDescription]:
    by_name = names if isinstance(names, Mapping) else {name.removesuffix(":0"): name for name in names}
    return [described(key, _tensor(graph, name, kind)) for key, name in by_name.items()]


def _tensor(graph: Any, name: str, kind: str) -> Any:
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError) as error:
        hint = did_you_mean(name.split(":")[0], [each.name for each in graph.get_operations()])
        raise ArgumentError(f"signatures: {kind} name {name!r}, which the graph does not have.{hint}") from error
