"""Writing a new graph with the inputs and outputs of an old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.graph.graph import Graph, node_name, reachable
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription, is_weight_size, placeholder


class GraphBuilder:
    """Collects the nodes and weights of a new signature.

    A node that takes the name of an old one takes its readers too. What no output needs is left out in the end.
    """

    def __init__(self, base: Graph) -> None:
        self.base = base
        self._made = GraphDef(versions=base.signature.graph_def.versions, library=base.signature.graph_def.library)
        self._weights: dict[str, Array] = {}
        self._taken = set(base.by_name)

    def new(self, name: str) -> str:
        """A name for a new node: this one, or a longer one where it is taken."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def keep(self, node: NodeDef) -> None:
        """Add a node of the old graph, perhaps changed."""
        self._made.node.add().CopyFrom(node)

    def make(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node under exactly this name, and return it: the tensor that is its first output."""
        node = self._made.node.add(op=op, name=name)
        node.input.extend(inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(_attribute(value))
        return name

    def compute(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node under a new name like this one, and return the tensor that is its first output."""
        return self.make(op, inputs, self.new(name), **attributes)

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, beside the graph where it is large, under a new name, which is returned."""
        name = self.new(name)
        if is_weight_size(value):
            placeholder(self._made, name, tf.as_dtype(value.dtype), value.shape)
            self._weights[name] = value
            return name
        proto = tf.make_tensor_proto(value)
        node = self._made.node.add(op="Const", name=name)
        node.attr["value"].tensor.CopyFrom(proto)
        node.attr["dtype"].type = proto.dtype
        return name

    def scalar(self, name: str, value: float) -> str:
        """Add a float32 number."""
        return self.constant(name, np.array(value, np.float32))

    def build(
        self,
        inputs: tuple[TensorDescription, ...] | None = None,
        outputs: tuple[TensorDescription, ...] | None = None,
    ) -> SignatureGraph:
        """The new signature.

        Args:
            inputs: what it takes; None: what the old one takes.
            outputs: what it returns; None: what the old one returns.
        """
        old = self.base.signature
        old = replace(
            old,
            inputs=old.inputs if inputs is None else inputs,
            outputs=old.outputs if outputs is None else outputs,
        )
        ends = [node_name(each.tensor) for each in (*old.inputs, *old.outputs)]
        needed = reachable(self._made, ends)
        graph_def = GraphDef(versions=self._made.versions, library=self._made.library)
        graph_def.node.extend(node for node in self._made.node if node.name in needed)
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
    for each in value:
        if isinstance(each, tf.DType):
            result.list.type.append(each.as_datatype_enum)
        elif isinstance(each, str):
            result.list.s.append(each.encode())
        else:
            result.list.i.append(each)
    return result
