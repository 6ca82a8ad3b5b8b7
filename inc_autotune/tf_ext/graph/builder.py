"""Construction of a graph from the nodes of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import reserved
from inc_autotune.tf_ext.graph.functions import called_functions
from inc_autotune.tf_ext.graph.graph import Graph, node_name, reachable
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription, is_weight_size, placeholder


class GraphBuilder:
    """Collects the nodes and weights of a new signature with the inputs and outputs of an old one.

    A node with the name of an old node is read by the readers of the old node. Nodes and weights that no output needs
    are left out by `build`.
    """

    def __init__(self, base: Graph) -> None:
        self.base = base
        self._made = GraphDef(versions=base.signature.graph_def.versions, library=base.signature.graph_def.library)
        self._weights: dict[str, Array] = {}
        self._taken = set(base.by_name)

    def new(self, name: str) -> str:
        """A name for a new node: `name`, with underscores appended if the old or new graph has such a node."""
        return reserved(name, self._taken)

    def keep(self, node: NodeDef) -> None:
        """Add a node of the old graph, perhaps changed."""
        self._made.node.add().CopyFrom(node)

    def add_function(self, function: FunctionDef) -> None:
        """Add a function that a new node calls; one of an equal name is the same."""
        if all(each.signature.name != function.signature.name for each in self._made.library.function):
            self._made.library.function.add().CopyFrom(function)

    def make(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with exactly this name, and return the name, which is that of its first output tensor."""
        node = self._made.node.add(op=op, name=name)
        node.input.extend(inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(_attribute(value))
        return name

    def compute(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with the name `new(name)`, and return that name, which is that of its first output tensor."""
        return self.make(op, inputs, self.new(name), **attributes)

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, which lies beside the graph if it is large, and return its name, which is `new(name)`."""
        if not is_weight_size(value):
            return self.inline(name, value)
        name = self.new(name)
        placeholder(self._made, name, tf.as_dtype(value.dtype), value.shape)
        self._weights[name] = value
        return name

    def inline(self, name: str, value: Array) -> str:
        """Add a constant, which lies in the graph even if it is large, and return its name, which is `new(name)`."""
        name = self.new(name)
        proto = tf.make_tensor_proto(value)
        node = self._made.node.add(op="Const", name=name)
        node.attr["value"].tensor.CopyFrom(proto)
        node.attr["dtype"].type = proto.dtype
        return name

    def scalar(self, name: str, value: float) -> str:
        """Add a float32 constant without dimensions, and return its name, which is `new(name)`."""
        return self.constant(name, np.array(value, np.float32))

    def build(
        self,
        inputs: tuple[TensorDescription, ...] | None = None,
        outputs: tuple[TensorDescription, ...] | None = None,
    ) -> SignatureGraph:
        """The new signature.

        Args:
            inputs: of the new signature; None: those of the old one.
            outputs: of the new signature; None: those of the old one.
        """
        old = self.base.signature
        old = replace(
            old,
            inputs=old.inputs if inputs is None else inputs,
            outputs=old.outputs if outputs is None else outputs,
        )
        ends = [node_name(description.tensor) for description in (*old.inputs, *old.outputs)]
        needed = reachable(self._made, ends)
        graph_def = GraphDef(versions=self._made.versions)
        graph_def.node.extend(node for node in self._made.node if node.name in needed)
        graph_def.library.function.extend(called_functions(graph_def.node, self._made.library))
        weights = {name: value for name, value in {**old.weights, **self._weights}.items() if name in needed}
        return replace(old, graph_def=graph_def, weights=weights)


def _attribute(value: Any) -> AttrValue:
    """A Python value as an attribute: bool, int, float, text, dtype, shape, or a list of ints, texts or dtypes."""
    if isinstance(value, bool):
        return AttrValue(b=value)
    if isinstance(value, int):
        return AttrValue(i=value)
    if isinstance(value, float):
        return AttrValue(f=value)
    if isinstance(value, str):
        return AttrValue(s=value.encode())
    if isinstance(value, tf.DType):
        return AttrValue(type=value.as_datatype_enum)
    if isinstance(value, tf.TensorShape):
        return AttrValue(shape=value.as_proto())
    result = AttrValue(list=AttrValue.ListValue())
    for item in value:
        if isinstance(item, tf.DType):
            result.list.type.append(item.as_datatype_enum)
        elif isinstance(item, str):
            result.list.s.append(item.encode())
        else:
            result.list.i.append(item)
    return result
