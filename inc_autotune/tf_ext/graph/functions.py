"""The functions that a graph calls: bodies of control flow, and calls that are not inlined."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from tensorflow.core.framework.attr_value_pb2 import NameAttrList
from tensorflow.core.framework.function_pb2 import FunctionDef, FunctionDefLibrary
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef


def calls(node: NodeDef) -> Iterator[tuple[str, NameAttrList]]:
    """What a node calls: the name of its attribute, such as `then_branch` or `branches_0`, and the function."""
    for key in sorted(node.attr):
        value = node.attr[key]
        if value.HasField("func"):
            yield key, value.func
        yield from ((f"{key}_{index}", each) for index, each in enumerate(value.list.func))


def is_compiled(caller: NodeDef, function: FunctionDef | None = None) -> bool:
    """Whether XLA compiles what a node calls."""
    return any(each.attr["_XlaMustCompile"].b for each in (caller, function) if each and "_XlaMustCompile" in each.attr)


def body_nodes(graph_def: GraphDef) -> Iterator[tuple[str, NodeDef]]:
    """The operators of all functions that the graph calls, directly or not, each with the path to it.

    A path names the caller, its attribute and the operator: `while/body/MatMul`.
    """
    return _inside(graph_def.node, {each.signature.name: each for each in graph_def.library.function}, "")


def _inside(nodes: Iterable[NodeDef], functions: Mapping[str, FunctionDef], path: str) -> Iterator[tuple[str, NodeDef]]:
    for node in nodes:
        for key, function in calls(node):
            body = functions[function.name].node_def if function.name in functions else ()
            place = f"{path}{node.name}/{key}/"
            yield from ((place + each.name, each) for each in body)
            yield from _inside(body, functions, place)


def called_functions(nodes: Iterable[NodeDef], library: FunctionDefLibrary) -> list[FunctionDef]:
    """The functions of a library that nodes call, directly or not, in its order; also those that are operator types."""
    functions = {each.signature.name: each for each in library.function}
    found: set[str] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        for name in (node.op, *(function.name for _, function in calls(node))):
            if name in functions and name not in found:
                found.add(name)
                left += functions[name].node_def
    return [function for name, function in functions.items() if name in found]


def name_by_content(graph_def: GraphDef) -> None:
    """Keep only the functions that are called, and name them after their content.

    TensorFlow numbers functions through the whole process. By content, the same model is the same graph each time, and
    two models never use one name for different functions.
    """
    functions = {each.signature.name: each for each in graph_def.library.function}
    renamed: dict[str, FunctionDef] = {}

    def rename_calls(nodes: Iterable[NodeDef]) -> None:
        for node in nodes:
            for _, function in calls(node):
                if function.name in functions:
                    function.name = rename(function.name).signature.name

    def rename(name: str) -> FunctionDef:
        if name not in renamed:
            function = functions[name]
            rename_calls(function.node_def)
            _number_arguments(function)
            function.signature.name = ""
            for key in [key for key in function.attr if key.startswith("_")]:
                del function.attr[key]
            digest = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()
            function.signature.name = f"body_{digest[:16]}"
            renamed[name] = function
        return renamed[name]

    rename_calls(graph_def.node)
    kept = {each.signature.name: each for each in renamed.values()}
    copies = [FunctionDef.FromString(kept[name].SerializeToString()) for name in sorted(kept)]
    graph_def.ClearField("library")
    graph_def.library.function.extend(copies)


def _number_arguments(function: FunctionDef) -> None:
    """Name arguments by their position: the names that TensorFlow gives hold numbers of the process."""
    names = {each.name: f"argument_{position}" for position, each in enumerate(function.signature.input_arg)}
    for argument in function.signature.input_arg:
        argument.name = names[argument.name]
    for node in function.node_def:
        for position, source in enumerate(node.input):
            control = "^" if source.startswith("^") else ""
            name = source.removeprefix("^")
            node.input[position] = control + names.get(name, name)
    for key, source in list(function.ret.items()):  # a map must not change while it is read
        function.ret[key] = names.get(source, source)
