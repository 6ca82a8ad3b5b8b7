"""Puts the functions that a graph only calls into the graph, where their operators can be quantized.

TensorFlow's own pass does so for calls without side effects alone, and not for functions that ask to stay apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from inc_autotune.tf_ext.graph import COPIES, is_compiled

CALLS = ("PartitionedCall", "StatefulPartitionedCall")

_MOVING = ("Const", "NoOp", *COPIES, "ExpandDims", "Squeeze", "SpaceToBatchND", "BatchToSpaceND")
"""What stands around the convolution of a Conv2D or Conv1D of Keras."""

DEEPEST = 64
"""Calls within calls that are followed; a function that calls itself has no end."""


def inlined(graph_def: GraphDef) -> GraphDef:
    """The graph without calls, but for functions that XLA compiles; loops and branches stay as they are.

    A compiled function that holds a convolution and nothing else is put into the graph too: Keras writes a convolution
    with groups so, which TensorFlow itself computes several times faster, and to the same numbers but for rounding.
    Without oneDNN, TensorFlow computes no such convolution together with a BiasAdd or a FusedBatchNorm, but tries to.
    So an AddV2 stands for the BiasAdd, and before a FusedBatchNorm the function stays.

    TensorFlow 1 freezes a SavedModel of TensorFlow 2 into a graph that is little more than such a call. The results of
    a call stay under its name: an Identity, or an IdentityN where there are several.
    """
    functions = {each.signature.name: each for each in graph_def.library.function}
    for _ in range(DEEPEST):
        kept = {node.input[0].removesuffix(":0") for node in graph_def.node if node.op.startswith("FusedBatchNorm")}
        found = {node.name: _called(node, functions, kept) for node in graph_def.node}
        if not any(found.values()):
            break
        result = GraphDef(versions=graph_def.versions, library=graph_def.library)
        made: dict[str, str] = {}
        with tf.Graph().as_default():
            tf.graph_util.import_graph_def(GraphDef(versions=graph_def.versions, library=graph_def.library), name="")
            for node in graph_def.node:
                function = found[node.name]
                result.node.extend([node] if function is None else _body(node, function, made))
        taken_out = {node.name for node in graph_def.node if (each := found[node.name]) and is_compiled(node, each)}
        for node in result.node:
            if node.op == "BiasAdd" and node.input[0].removesuffix(":0") in taken_out:
                node.op = "AddV2"
                del node.attr["data_format"]
            node.input[:] = [_source(each, made) for each in node.input]
        graph_def = result
    return graph_def


def _source(tensor: str, made: Mapping[str, str]) -> str:
    """The tensor itself, or the one that a call only handed on under this name."""
    key = tensor.removesuffix(":0")
    while key in made:
        tensor = made[key]
        key = tensor.removesuffix(":0")
    return tensor


def _called(node: NodeDef, functions: Mapping[str, FunctionDef], kept: Collection[str]) -> FunctionDef | None:
    """The function that a node only calls; None where it does something else, or XLA compiles it.

    Args:
        node: of the graph.
        functions: by name.
        kept: names of nodes whose functions stay if XLA compiles them.
    """
    function = functions.get(node.attr["f"].func.name if node.op in CALLS else node.op)
    # The types of a function that works with several are attributes without a value.
    generic = function is not None and bool(function.signature.attr)
    if function is None or generic:
        return None
    plain = not is_compiled(node, function) or (node.name not in kept and _is_a_convolution(function))
    return function if plain else None


def _is_a_convolution(function: FunctionDef) -> bool:
    """Whether a function computes a single convolution, beside moving data."""
    operators = [node.op for node in function.node_def if node.op not in _MOVING]
    return operators == ["Conv2D"]


def _body(call: NodeDef, function: FunctionDef, made_by: dict[str, str]) -> Iterator[NodeDef]:
    """The nodes of a function under the call's name, which read what the call reads.

    Args:
        call: is not changed.
        function: that it calls.
        made_by: gets the tensor behind each result of the call.
    """
    flat: dict[str, str]
    graph_def, flat = function_def_to_graph_def(function)
    arguments = [each.name for each in function.signature.input_arg]
    given: dict[str, str] = dict(zip(arguments, (each for each in call.input if not each.startswith("^")), strict=True))
    waited_for = [each for each in call.input if each.startswith("^")]

    def outer(source: str) -> str:
        if source.startswith("^"):
            name = source[1:]
            return f"^{given[name].split(':')[0]}" if name in given else f"^{call.name}/{name}"
        name, _, index = source.partition(":")
        if name in given:
            return given[name]
        return f"{call.name}/{name}" + (f":{index}" if index not in ("", "0") else "")

    for node in graph_def.node:
        if node.name in given:
            continue
        made = NodeDef()
        made.CopyFrom(node)
        made.name = f"{call.name}/{node.name}"
        made.input[:] = [outer(each) for each in node.input]
        if not made.input:
            made.input.extend(waited_for)
        for key in ("_class", "_output_shapes"):  # nodes on the same device by their old names; shapes of variables
            made.attr.pop(key, None)
        yield made
    returned = [outer(flat[function.ret[each.name]]) for each in function.signature.output_arg]
    yield _results(call, returned, function, [*waited_for, *_effects(call, function)])
    made_by |= {f"{call.name}:{index}" if index else call.name: each for index, each in enumerate(returned)}


def _effects(call: NodeDef, function: FunctionDef) -> list[str]:
    """What has to run though no result needs it, such as an assertion."""
    return [f"^{call.name}/{each}" for each in function.control_ret.values()]


def _results(call: NodeDef, returned: Sequence[str], function: FunctionDef, waited_for: Sequence[str]) -> NodeDef:
    made = NodeDef(name=call.name, input=[*returned, *waited_for])
    types = [each.type for each in function.signature.output_arg]
    if not types:
        made.op = "NoOp"
    elif len(types) == 1:
        made.op = "Identity"
        made.attr["T"].type = types[0]
    else:
        made.op = "IdentityN"
        made.attr["T"].list.type.extend(types)
    return made
