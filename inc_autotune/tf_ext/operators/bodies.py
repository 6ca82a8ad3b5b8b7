"""Products inside functions: bodies of loops and branches, and what XLA compiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph import (
    BRANCHES,
    CONDITION,
    COPIES,
    LOOPS,
    Graph,
    calls,
    data_inputs,
    is_compiled,
    is_editable,
    node_name,
)

_LOOPS = (*LOOPS, "For")

ADVICE = "give the model without jit_compile=True"
GROUPED_VOLUMES = ", unless it convolves volumes in groups, which TensorFlow does on a CPU by XLA alone"

Bindings = Mapping[str, str]
"""Names of constants of the graph, by name of the argument or copy that holds them inside a function."""


@dataclass(frozen=True)
class InnerOperator:
    """An operator inside a function.

    Attributes:
        node: of the function.
        caller: name of the graph's node that calls the function, or one that calls it.
        reason: why it stays as it is.
        weights: names of the graph's constants that it reads.
        constants: of the function itself that it reads.
    """

    node: NodeDef
    caller: str
    reason: str
    weights: tuple[str, ...]
    constants: tuple[NodeDef, ...]


def inner_operators(graph: Graph) -> Mapping[str, InnerOperator]:
    """The operators of the functions that a graph calls, directly or not, by the path to them: `while/body/MatMul`.

    Functions that can be written anew are left out: they are graphs of their own, see `bodies_of`.
    """
    functions = {each.signature.name: each for each in graph.signature.graph_def.library.function}
    outside = {
        name: constant
        for node in graph.nodes
        for name in data_inputs(node)
        if any(True for _ in calls(node)) and (constant := graph.constant_node(name)) is not None
    }
    return {
        path: each for caller in graph.nodes for path, each in _inside(caller, [caller], functions, outside, "", None)
    }


def _inside(
    outermost: NodeDef,
    nodes: Sequence[NodeDef],
    functions: Mapping[str, FunctionDef],
    bindings: Bindings,
    path: str,
    reason: str | None,
) -> Iterator[tuple[str, InnerOperator]]:
    for caller in nodes:
        editable = reason is None and is_editable(caller, functions)
        for key, called in calls(caller):
            function = functions.get(called.name)
            if function is None or (editable and key != CONDITION):
                continue
            why = reason or _reason(caller, key, function)
            inside = _bindings(caller, function, bindings)
            constants = {node.name: node for node in function.node_def if node.op == "Const"}
            place = f"{path}{caller.name}/{key}/"
            for node in function.node_def:
                read = list(map(node_name, data_inputs(node)))
                yield (
                    place + node.name,
                    InnerOperator(
                        node,
                        outermost.name,
                        why + GROUPED_VOLUMES if node.op == "Conv3D" and why.endswith(ADVICE) else why,
                        tuple(inside[each] for each in read if each in inside),
                        tuple(constants[each] for each in read if each in constants),
                    ),
                )
            yield from _inside(outermost, function.node_def, functions, inside, place, why)


def _reason(caller: NodeDef, key: str, function: FunctionDef) -> str:
    if caller.op in _LOOPS and key == CONDITION:
        return "it is inside the condition of a loop, control flow that stays as it is"
    if caller.op in _LOOPS:
        return "it is inside the body of a loop, control flow that stays as it is"
    if caller.op in BRANCHES:
        return "it is inside a branch, control flow that stays as it is"
    if is_compiled(caller, function):
        return f"it is inside a function that XLA compiles, which stays as it is; {ADVICE}"
    return f"it is inside a function that {caller.op} {caller.name!r} calls, which stays as it is"


def _bindings(caller: NodeDef, function: FunctionDef, outer: Bindings) -> dict[str, str]:
    """Which constant each argument of a function is, and each copy of it; a loop must hand it on unchanged."""
    given = [outer.get(tensor) for tensor in data_inputs(caller)]
    arguments = [each.name for each in function.signature.input_arg]
    # A branch is called without the condition, which stands first.
    bound = dict(zip(arguments, given[len(given) - len(arguments) :], strict=False))
    copies = {node.name: node_name(node.input[0]) for node in function.node_def if node.op in COPIES}
    if caller.op in _LOOPS:
        returned = [node_name(function.ret[each.name]) for each in function.signature.output_arg]
        for argument, result in zip(arguments[-len(returned) :], returned, strict=False):
            if len(arguments) - len(returned) <= 1 and _copied(result, copies) != argument:
                bound.pop(argument)
    found = {name: constant for name, constant in bound.items() if constant is not None}
    return found | {name: found[source] for name in copies if (source := _copied(name, copies)) in found}


def _copied(name: str, copies: Mapping[str, str]) -> str:
    """What a node copies, perhaps by way of other copies."""
    while name in copies:
        name = copies[name]
    return name
