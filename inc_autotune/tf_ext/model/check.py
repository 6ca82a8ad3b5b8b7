"""Whether a model can be quantized at all, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from keyword import iskeyword
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.graph import TensorDescription, body_nodes

INFERENCE = (
    "Give the model in inference mode: a Keras model itself or what model.export() writes, or a function traced with "
    "training=False."
)

_INTEGER_OPERATORS = (
    *("Quantize", "Dequantize", "Requantize", "FakeQuant", "_Quantized", "_FusedQuantized"),
    *("UniformQuantize", "UniformDequantize", "UniformRequantize"),
)
_UNIFORM_RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
_ARITHMETIC = ("Add", "AddV2", "Cast", "Identity", "Mul", "Sub")
_TRAINING_SWITCHES = ("learning_phase", "training")


def check_function(name: str, function: Any) -> None:
    """Refuse a function whose inputs are no dense tensors, or that trains.

    Args:
        name: of its signature.
        function: a ConcreteFunction.

    Raises:
        ModelError: it takes ragged or sparse tensors, or writes variables.
    """
    for spec in tf.nest.flatten(function.structured_input_signature):
        if isinstance(spec, tf.TypeSpec) and not isinstance(spec, tf.TensorSpec):
            raise ModelError(
                f"model: signature {name!r} takes a {type(spec).__name__.removesuffix('Spec')}. Allowed: dense "
                "tensors; make it one before the model, with tensor.to_tensor() or tf.sparse.to_dense(tensor)."
            )
    writers = sorted({node.name for node in all_nodes(function.graph.as_graph_def()) if node.op.startswith("Assign")})
    if writers:
        raise ModelError(
            f"model: signature {name!r} writes variables ({_listed(writers)}): it is in training mode, or keeps state "
            f"between calls. {INFERENCE} Recurrent layers need stateful=False; state that has to go on must be an "
            "input and an output."
        )


def check_inputs(name: str, inputs: Sequence[TensorDescription]) -> None:
    """Refuse inputs that are resources, switch training on, or have a name that no SavedModel can have.

    Args:
        name: of the signature.
        inputs: of the signature.

    Raises:
        ModelError: one is a resource, such a switch, or has such a name.
    """
    for each in inputs:
        if iskeyword(each.name) or each.name == "self":
            raise ModelError(
                f"model: input {each.name!r} of signature {name!r} is called like a Python word, and TensorFlow "
                "saves no such signature. Give it another name."
            )
        if each.dtype in (tf.resource, tf.variant):
            raise ModelError(
                f"model: input {each.name!r} of signature {name!r} is a resource. Allowed: tensors of numbers or text. "
                "Choose another signature with signatures=[...], or export one that starts behind the preprocessing."
            )
        if each.dtype == tf.bool and each.shape == () and any(word in each.name for word in _TRAINING_SWITCHES):
            raise ModelError(f"model: input {each.name!r} of signature {name!r} switches training on. {INFERENCE}")


def check_graph(name: str, graph_def: GraphDef, inputs: Sequence[TensorDescription]) -> None:
    """Refuse a graph that cannot be quantized as it is.

    Args:
        name: of its signature.
        graph_def: with weights as constants.
        inputs: of the signature.

    Raises:
        ModelError: it takes resources or parts of ragged tensors, is in training mode, or is quantized already.
    """
    check_inputs(name, inputs)
    _check_dense(name, graph_def, inputs)
    nodes = list(all_nodes(graph_def))
    training = [f"{node.name} is a {node.op} that trains" for node in nodes if _trains(node)]
    training += [f"{each} is a dropout" for each in _dropouts(nodes)]
    if training:
        raise ModelError(f"model: signature {name!r} is in training mode ({_listed(training)}). {INFERENCE}")
    quantized = [f"{node.name} is a {node.op}" for node in nodes if node.op.startswith(_INTEGER_OPERATORS)]
    if quantized:
        raise ModelError(f"model: signature {name!r} is quantized already ({_listed(quantized)}). Give the fp32 model.")


def check_placeholders(
    name: str, graph_def: GraphDef, inputs: Sequence[TensorDescription], tables: Iterable[str] = ()
) -> None:
    """Refuse a graph that needs a value which is no input.

    Args:
        name: of its signature.
        graph_def: with only the nodes that its outputs need.
        inputs: of the signature.
        tables: placeholders that stand for tables.

    Raises:
        ModelError: a placeholder is no input.
    """
    known = {*(each.tensor.split(":")[0] for each in inputs), *tables}
    missing = [node.name for node in graph_def.node if node.op == "Placeholder" and node.name not in known]
    if missing:
        raise ModelError(
            f"model: signature {name!r} needs {_listed(missing)}, which is not among its inputs "
            f"({', '.join(sorted(known))}). Add it to the inputs; a switch for training must be frozen to False."
        )


def all_nodes(graph_def: GraphDef) -> Iterator[NodeDef]:
    """The operators of a graph and of the functions that it calls."""
    yield from graph_def.node
    yield from (node for _, node in body_nodes(graph_def))


def _check_dense(name: str, graph_def: GraphDef, inputs: Sequence[TensorDescription]) -> None:
    parts = {each.tensor.split(":")[0] for each in inputs}
    for node in graph_def.node:
        read = parts.intersection(source.split(":")[0] for source in node.input)
        if read and node.op == "Identity":
            parts.add(node.name)
        if read and node.op.startswith(("Ragged", "SparseToDense", "SparseTensor", "SparseRe", "SparseFill")):
            raise ModelError(
                f"model: signature {name!r} takes the parts of a ragged or sparse tensor ({', '.join(sorted(read))} go "
                f"into {node.op}). Allowed: dense tensors; export a signature that takes them."
            )


def _trains(node: NodeDef) -> bool:
    return node.op.startswith("FusedBatchNorm") and "is_training" in node.attr and node.attr["is_training"].b


def _dropouts(nodes: Sequence[NodeDef]) -> Iterator[str]:
    """Names of comparisons with uniform random numbers."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        if node.op not in ("GreaterEqual", "Floor") or not node.input:
            continue
        source = by_name.get(node.input[0].split(":")[0])
        while source is not None and source.op in _ARITHMETIC:
            source = by_name.get(source.input[0].split(":")[0])
        if source is not None and source.op in _UNIFORM_RANDOM:
            yield node.name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
