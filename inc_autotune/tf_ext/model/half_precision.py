"""Graphs that compute in half precision, rewritten to compute in float32 with the same inputs and outputs.

Integers take the place of float32 products, so the whole graph is float32 first. Where the processor multiplies
bfloat16, tuning offers it again, operator by operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from inc_autotune.graphs import reserved
from inc_autotune.tf_ext.graph import TensorDescription

FLOAT = tf.float32.as_datatype_enum
HALF_TYPES: dict[int, str] = {each.as_datatype_enum: each.name for each in (tf.float16, tf.bfloat16)}

_ONLY_STORE = ("Cast", "Const", "Identity", "Placeholder", "PlaceholderWithDefault")
_INPUTS = ("Placeholder", "PlaceholderWithDefault")
_BITS = ("Bitcast", "DecodeRaw", "DecodePaddedRaw", "ParseTensor", "SerializeTensor")
_RANDOM = ("Multinomial", "ParameterizedTruncatedNormal", "Random", "TruncatedNormal")


def half_type(graph_def: GraphDef) -> str | None:
    """The half type that a graph computes in, by its name, and that can be float32 instead; else None.

    None too for a graph that only stores weights so, and for one with operators that read the bits of a number, hold
    it outside the graph, or are not TensorFlow's own.
    """
    found = [(node, kinds) for node in _all_nodes(graph_def) if (kinds := _half_types(node))]
    computing = [kinds for node, kinds in found if node.op not in _ONLY_STORE]
    defaults = any(node.op == "PlaceholderWithDefault" for node, _ in found)
    if not computing or defaults or not all(_may_be_float32(node) for node, _ in found):
        return None
    return HALF_TYPES[next(iter(computing[0]))]


def in_float32(
    graph_def: GraphDef, inputs: Sequence[TensorDescription], outputs: Sequence[TensorDescription]
) -> tuple[GraphDef, tuple[TensorDescription, ...]]:
    """A copy of a graph, with the functions it calls, where every node computes in float32.

    Args:
        graph_def: with weights as constants.
        inputs: of its signature; they keep their types, and are cast.
        outputs: of its signature.

    Returns:
        The graph, and the outputs, those of half precision where they are cast back.
    """
    result = GraphDef()
    result.CopyFrom(graph_def)
    own = {each.tensor.split(":")[0] for each in inputs}
    taken = {node.name for node in result.node}
    twins = {name: reserved(f"{name}/float32", taken) for name in _half_inputs(result, own)}
    for function in result.library.function:
        _set_function(function)
    for node in result.node:
        if node.name not in twins:
            _set_float32(node)
        node.input[:] = [twins.get(each.removesuffix(":0"), each) for each in node.input]
    for name, twin in twins.items():
        kind = next(node.attr["dtype"].type for node in result.node if node.name == name)
        _add_cast(result, name, twin, kind, FLOAT)
    given = {f"{name}:0" for name in twins}
    returned = []
    for each in outputs:
        kind = each.dtype.as_datatype_enum
        if kind in HALF_TYPES and each.tensor not in given:
            cast = reserved(f"{each.tensor.split(':')[0]}/{each.dtype.name}", taken)
            _add_cast(result, each.tensor.removesuffix(":0"), cast, FLOAT, kind)
            each = replace(each, tensor=f"{cast}:0")
        returned.append(each)
    return result, tuple(returned)


def _half_inputs(graph_def: GraphDef, names: Iterable[str]) -> list[str]:
    known = frozenset(names)
    return [node.name for node in graph_def.node if node.name in known and node.op in _INPUTS and _half_types(node)]


def _add_cast(graph_def: GraphDef, tensor: str, name: str, source: int, target: int) -> None:
    node = graph_def.node.add(op="Cast", name=name, input=[tensor])
    node.attr["SrcT"].type = source
    node.attr["DstT"].type = target


def _set_function(function: FunctionDef) -> None:
    for argument in (*function.signature.input_arg, *function.signature.output_arg):
        argument.type = FLOAT if argument.type in HALF_TYPES else argument.type
    # In functions tensors are called by the names that operators give their outputs.
    renamed = {f"{node.name}:y:0": f"{node.name}:output:0" for node in function.node_def if _set_float32(node)}
    for node in function.node_def:
        node.input[:] = [renamed.get(each, each) for each in node.input]
    for name, tensor in function.ret.items():
        function.ret[name] = renamed.get(tensor, tensor)


def _set_float32(node: NodeDef) -> bool:
    """Let a node name float32 where it names half precision; tells whether it was a Cast that is an Identity now."""
    if not _half_types(node):
        return False
    for value in node.attr.values():
        _set_value(value)
    node.ClearField("experimental_type")
    if node.op != "Cast" or node.attr["SrcT"].type != node.attr["DstT"].type:
        return False
    node.op = "Identity"
    node.attr["T"].type = FLOAT
    for key in ("SrcT", "DstT", "Truncate"):
        node.attr.pop(key, None)
    return True


def _set_value(value: AttrValue) -> None:
    kind = value.WhichOneof("value")
    if kind == "type":
        value.type = FLOAT if value.type in HALF_TYPES else value.type
    elif kind == "tensor" and value.tensor.dtype in HALF_TYPES:
        real = np.asarray(tf.make_ndarray(value.tensor)).astype(np.float32)
        value.tensor.CopyFrom(tf.make_tensor_proto(real, tf.float32, real.shape))
    elif kind == "list":
        value.list.type[:] = [FLOAT if each in HALF_TYPES else each for each in value.list.type]
    elif kind == "func":
        for each in value.func.attr.values():
            _set_value(each)


def _half_types(node: NodeDef) -> dict[int, None]:
    """The half types that a node names, in its order."""
    return dict.fromkeys(kind for value in node.attr.values() for kind in _types(value) if kind in HALF_TYPES)


def _types(value: AttrValue) -> Iterator[int]:
    kind = value.WhichOneof("value")
    if kind == "type":
        yield value.type
    elif kind == "tensor":
        yield value.tensor.dtype
    elif kind == "list":
        yield from value.list.type
    elif kind == "func":
        for each in value.func.attr.values():
            yield from _types(each)


def _may_be_float32(node: NodeDef) -> bool:
    """Whether a node of half precision means the same in float32."""
    definition = op_def_registry.get(node.op)
    if definition is None or node.op in _BITS or (definition.is_stateful and not _is_pure(node)):
        return False
    allowed = [each.allowed_values.list.type for each in definition.attr if each.type == "type"]
    return all(FLOAT in each for each in allowed if any(kind in each for kind in HALF_TYPES))


def _is_pure(node: NodeDef) -> bool:
    return node.op in ("If", "While", "Case", "Placeholder", "StatefulPartitionedCall") or node.op.startswith(_RANDOM)


def _all_nodes(graph_def: GraphDef) -> Iterator[NodeDef]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def
