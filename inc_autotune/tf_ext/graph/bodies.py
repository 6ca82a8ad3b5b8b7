"""The functions that a graph calls, such as the body of a loop, each as a graph of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.graph.functions import calls, is_compiled
from inc_autotune.tf_ext.graph.graph import COPIES, Graph, data_inputs, node_name
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription

LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
CALLERS = (*LOOPS, *BRANCHES, "PartitionedCall", "StatefulPartitionedCall")
"""Operators whose functions can be written anew."""

CONDITION = "cond"
"""The attribute of a loop that decides whether it goes on."""


@dataclass(frozen=True, eq=False)
class Body:
    """A function that a node calls.

    Its nodes are called by the path to them: `while/body/MatMul`. Arguments are placeholders; those that are always the
    same constant of the graph around are weights.

    Attributes:
        caller: name of the node that calls it.
        key: says which of the caller's functions it is, such as "body", see `functions.calls`.
        function: as it is.
        graph: of its nodes. Arguments that are no weights are inputs, in order, and results are outputs.
        arguments: names of all placeholders, in order.
    """

    caller: str
    key: str
    function: FunctionDef
    graph: Graph
    arguments: tuple[str, ...]

    @property
    def path(self) -> str:
        """Prefix of the names of its nodes, without the last `/`."""
        return self.graph.signature.name

    @property
    def results(self) -> list[str]:
        """The tensors that are returned, in order."""
        return [each.tensor for each in self.graph.signature.outputs]


def bodies_of(graph: Graph) -> Iterator[Body]:
    """The functions that the nodes of a graph call, and that can be written anew; not those inside functions."""
    functions = {each.signature.name: each for each in graph.signature.graph_def.library.function}
    callers = [node for node in graph.nodes if is_editable(node, functions)]
    if not callers:
        return
    library = GraphDef(versions=graph.signature.graph_def.versions, library=graph.signature.graph_def.library)
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(library, name="")
        for node in callers:
            for key, called in calls(node):
                yield _body(graph, node, key, functions[called.name], library)


def is_editable(caller: NodeDef, functions: Mapping[str, FunctionDef]) -> bool:
    """Whether the functions that a node calls can be written anew: it only calls them, and they only compute."""
    called = [functions.get(function.name) for _, function in calls(caller)]
    return (
        caller.op in CALLERS
        and bool(called)
        and all(each is not None and not is_compiled(caller, each) and _is_plain(each) for each in called)
    )


def _is_plain(function: FunctionDef) -> bool:
    """Whether nothing has to run but what the results need, and all types are fixed."""
    nodes = {node.name: node for node in function.node_def}
    pure = _pure_nodes(nodes)
    known = all(op_def_registry.get(node.op) is not None for node in function.node_def)
    return known and not function.signature.attr and all(each in pure for each in function.control_ret.values())


def _pure_nodes(nodes: Mapping[str, NodeDef]) -> set[str]:
    """Names of the nodes that nobody has to wait for: neither they nor what they read have an effect."""
    impure: set[str] = set()
    for name, node in nodes.items():
        definition = op_def_registry.get(node.op)
        if definition is None or definition.is_stateful:
            impure.add(name)
    grown = -1
    while grown != len(impure):
        grown = len(impure)
        for name, node in nodes.items():
            if any(node_name(each.lstrip("^")) in impure for each in node.input):
                impure.add(name)
    return nodes.keys() - impure


def _body(graph: Graph, caller: NodeDef, key: str, function: FunctionDef, library: GraphDef) -> Body:
    made, flat = function_def_to_graph_def(function, _shapes(graph, caller, function))
    nodes = {node.name: node for node in made.node}
    pure = _pure_nodes(nodes)
    path = f"{caller.name}/{key}"
    graph_def = GraphDef(versions=library.versions, library=library.library)
    for node in made.node:
        renamed = graph_def.node.add()
        renamed.CopyFrom(node)
        renamed.name = f"{path}/{node.name}"
        renamed.input[:] = [_renamed(each, path) for each in node.input if not (each[0] == "^" and each[1:] in pure)]
        for attribute in ("_class", "_output_shapes", "_user_specified_name"):
            renamed.attr.pop(attribute, None)
    arguments = [f"{path}/{each.name}" for each in function.signature.input_arg]
    results = [_renamed(flat[function.ret[each.name]], path) for each in function.signature.output_arg]
    fixed = _fixed(graph, caller, arguments)
    types = [tf.as_dtype(each.type) for each in function.signature.input_arg]
    inputs = (
        TensorDescription(name, dtype, None, f"{name}:0")
        for name, dtype in zip(arguments, types, strict=True)
        if name not in fixed
    )
    outputs = (
        TensorDescription(each.name, tf.as_dtype(each.type), None, result)
        for each, result in zip(function.signature.output_arg, results, strict=True)
    )
    signature = SignatureGraph(path, graph_def, fixed, tuple(inputs), tuple(outputs), True, {})
    return Body(caller.name, key, function, Graph(signature), tuple(arguments))


def _renamed(source: str, path: str) -> str:
    return f"^{path}/{source[1:]}" if source.startswith("^") else f"{path}/{source}"


def _shapes(graph: Graph, caller: NodeDef, function: FunctionDef) -> list[tf.TensorShape]:
    """Shapes of the arguments, as far as they are known whenever the function is called."""
    count = len(function.signature.input_arg)
    if caller.op in LOOPS:
        declared = [tf.TensorShape(each) for each in caller.attr["output_shapes"].list.shape]
        return declared if len(declared) == count else [tf.TensorShape(None)] * count
    return [tf.TensorShape(graph.shape(tensor)) for tensor in given_tensors(caller, count)]


def given_tensors(caller: NodeDef, count: int) -> list[str]:
    """The tensors that a function with so many arguments is called with; a branch is called without the condition."""
    given = list(data_inputs(caller))
    return given[len(given) - count :]


def _fixed(graph: Graph, caller: NodeDef, arguments: Sequence[str]) -> dict[str, Array]:
    """The arguments of a function that are the same constant at each call; a loop must hand it on unchanged."""
    given = given_tensors(caller, len(arguments))
    kept = _handed_on(graph, caller) if caller.op in LOOPS else [True] * len(arguments)
    values = {name: graph.constant(tensor) for name, tensor, same in zip(arguments, given, kept, strict=True) if same}
    return {name: value for name, value in values.items() if value is not None}


def _handed_on(graph: Graph, caller: NodeDef) -> list[bool]:
    """Whether the body of a loop returns each of its arguments as it is."""
    functions = {each.signature.name: each for each in graph.signature.graph_def.library.function}
    body = functions[caller.attr["body"].func.name]
    nodes = {node.name: node for node in body.node_def}
    kept = []
    for argument, result in zip(body.signature.input_arg, body.signature.output_arg, strict=True):
        name = node_name(body.ret[result.name])
        while name in nodes and nodes[name].op in COPIES:
            name = node_name(nodes[name].input[0])
        kept.append(name == argument.name)
    return kept
