"""A TensorFlow model in two parts: a small graph per signature, and the weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.arrays import Array

LARGEST_INLINE_BYTES = 1024
"""Constants up to this size stay in the graph; larger ones are placeholders there, and arrays beside it."""


@dataclass(frozen=True)
class TensorDescription:
    """An input or output of a signature.

    Args:
        name: in the signature.
        dtype: of the tensor.
        shape: a number for a fixed dimension, None for a dynamic one; None as a whole if the rank is unknown.
        tensor: the name in the graph, such as `x:0`.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None
    tensor: str

    @property
    def spec(self) -> tf.TensorSpec:
        """The description as a `tf.TensorSpec`."""
        return tf.TensorSpec(self.shape, self.dtype, name=self.name)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype.name}"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype.name} [{sizes}]"


@dataclass(frozen=True, eq=False)
class Table:
    """A lookup table, which stays as it is.

    Attributes:
        handle: the resource that operators read.
        holder: what makes and fills it when a SavedModel is loaded; kept, so that the table lives.
    """

    handle: Any
    holder: Any


@dataclass(frozen=True)
class SignatureGraph:
    """One signature as a graph without variables.

    Args:
        name: of the signature.
        graph_def: the nodes. A weight of more than 1 KiB is a Placeholder with dtype and shape; a control flow body is
            a function of the library. It must not be changed: copies are cheap.
        weights: values of these placeholders by node name; read-only.
        inputs: in the order of the signature.
        outputs: in the order of the signature.
        ordered: whether the order of the inputs is known; a signature of a SavedModel may only know names.
        body_operators: name -> type of each operator inside control flow bodies, which stay as they are. A name is the
            path to it: `while/body/MatMul`.
        tables: what placeholders of resources stand for, by node name.
        aliases: other names of the same signature, such as the "serve" beside "serving_default" that Keras exports.
        half_type: "float16" or "bfloat16", in which the model computed as it was given; None: in float32.
    """

    name: str
    graph_def: GraphDef = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    ordered: bool
    body_operators: Mapping[str, str]
    tables: Mapping[str, Table] = field(default_factory=dict, repr=False)
    aliases: tuple[str, ...] = ()
    half_type: str | None = None


@dataclass(frozen=True)
class GraphModel:
    """All signatures of a model, in the order of the model; equal weights of several signatures are the same array.

    Args:
        signatures: by name, without aliases. The first one is the default: "serving_default" where there is one.
    """

    signatures: Mapping[str, SignatureGraph]


def is_weight_size(value: Array) -> bool:
    """Whether a constant of this size lies beside the graph, as a weight."""
    return value.nbytes > LARGEST_INLINE_BYTES


def placeholder(graph_def: GraphDef, name: str, dtype: tf.DType, shape: tuple[int, ...]) -> None:
    """Append the node of a weight, whose value lies beside the graph."""
    node = graph_def.node.add(op="Placeholder", name=name)
    node.attr["dtype"].type = dtype.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
