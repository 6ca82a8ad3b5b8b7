"""Writes a node that calls functions with other functions, which take more arguments and perhaps fewer of the old."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import content
from inc_autotune.tf_ext.graph.bodies import CONDITION, LOOPS, Body, given_tensors
from inc_autotune.tf_ext.graph.builder import GraphBuilder
from inc_autotune.tf_ext.graph.functions import calls
from inc_autotune.tf_ext.graph.graph import COPIES, data_inputs, node_name, reachable, tensor_name
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph


@dataclass(frozen=True)
class Extra:
    """One more argument of all functions of a caller.

    Args:
        tensor: of the graph around, that is given.
        dtype: of the tensor.
        shape: of the argument, whenever the function is called.
        inside: by key of the function the name of the placeholder for it; functions that do not read it are left out.
        results: by key of the function the tensor that is returned as one more result; functions that are left out
            return the argument. None: there is no such result. A loop returns every argument.
        content: says what a constant holds, since kernels keep what they make of one: functions may be shared only
            where it is equal.
    """

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape
    inside: Mapping[str, str]
    results: Mapping[str, str] | None = None
    content: str = ""


def weight_extras(
    constant: Callable[[str, Array], str], bodies: Sequence[Body], forms: Mapping[str, SignatureGraph]
) -> list[Extra]:
    """The weights that new forms of functions read and the old ones did not, as constants of the graph around.

    Args:
        constant: adds one to the graph around, given a name for it, and returns its name.
        bodies: all functions of a caller.
        forms: by key, those that are changed.
    """
    shared: dict[tuple[int, int], tuple[Array, dict[str, str]]] = {}
    for body in bodies:
        seen: Counter[int] = Counter()
        for name, value in forms[body.key].weights.items() if body.key in forms else ():
            if name not in body.arguments:
                # Branches that read the same weight take it by one argument.
                names = shared.setdefault((id(value), seen[id(value)]), (value, {}))[1]
                names[body.key] = name
                seen[id(value)] += 1
    return [
        Extra(
            constant(next(iter(names.values())), value),
            tf.as_dtype(value.dtype),
            tf.TensorShape(value.shape),
            names,
            content=content(value),
        )
        for value, names in shared.values()
    ]


def rewrite_call(
    builder: GraphBuilder,
    caller: NodeDef,
    bodies: Sequence[Body],
    forms: Mapping[str, SignatureGraph],
    extras: Sequence[Extra],
) -> list[str]:
    """Add a caller with changed functions; constants that none of them reads any more are not given any more.

    Args:
        builder: of the graph around.
        caller: a node of the old graph.
        bodies: all its functions.
        forms: by key, those that are changed; arguments have the names that they have in the `Body`.
        extras: further arguments.

    Returns:
        Names of the caller's outputs for the extras with results, in order.
    """
    is_loop = caller.op in LOOPS
    graphs = {body.key: forms.get(body.key, body.graph.signature) for body in bodies}
    count = len(bodies[0].arguments)
    dropped = _dropped(builder, caller, bodies, graphs)
    kept = [index for index in range(count) if index not in dropped]
    names: dict[str, str] = {}
    for form in forms.values():
        for inner in form.graph_def.library.function:
            builder.add_function(inner)
    for body in bodies:
        function = _function(body, graphs[body.key], kept, extras, all_returned=is_loop and body.key == "body")
        builder.add_function(function)
        names[body.key] = function.signature.name
    node = NodeDef()
    node.CopyFrom(caller)
    for key, called in calls(node):
        called.name = names[key]
    given = given_tensors(caller, count)
    before = list(data_inputs(caller))[: -count or None]
    node.input[:] = [
        *before,
        *(given[index] for index in kept),
        *(each.tensor for each in extras),
        *(each for each in caller.input if each.startswith("^")),
    ]
    returned = list(extras) if is_loop else [each for each in extras if each.results is not None]
    outputs = kept if is_loop else range(len(bodies[0].function.signature.output_arg))
    _set_types(node, is_loop, kept, extras, returned)
    builder.keep(node)
    return [f"{node.name}:{len(outputs) + index}" for index, each in enumerate(returned) if each.results is not None]


def _dropped(
    builder: GraphBuilder, caller: NodeDef, bodies: Sequence[Body], graphs: Mapping[str, SignatureGraph]
) -> set[int]:
    """Positions of constant arguments that no function reads, none of which moves an output that is read."""
    first_free = 0
    if caller.op in LOOPS:
        graph = builder.base
        read = {
            int(tensor.partition(":")[2] or 0)
            for tensor in (*graph.consumers, *graph.outputs)
            if node_name(tensor) == caller.name
        }
        first_free = max(read, default=-1) + 1
    dropped = set()
    for index in range(first_free, len(bodies[0].arguments)):
        names = {body.key: body.arguments[index] for body in bodies}
        fixed = all(names[body.key] in body.graph.signature.weights for body in bodies)
        if fixed and not any(_reads(graphs[body.key], names[body.key], index, caller, body.key) for body in bodies):
            dropped.add(index)
    return dropped


def _reads(form: SignatureGraph, argument: str, index: int, caller: NodeDef, key: str) -> bool:
    """Whether a function does more with an argument than to hand it on as a loop has to."""
    copies = {argument}
    grown = True
    while grown:
        grown = False
        for node in form.graph_def.node:
            if node.name not in copies and any(node_name(each.lstrip("^")) in copies for each in node.input):
                if node.op not in COPIES:
                    return True
                copies.add(node.name)
                grown = True
    own = index if caller.op in LOOPS and key == "body" else None
    return any(node_name(each.tensor) in copies for place, each in enumerate(form.outputs) if place != own)


def _set_types(
    node: NodeDef, is_loop: bool, kept: Sequence[int], extras: Sequence[Extra], returned: Sequence[Extra]
) -> None:
    """The attributes with dtypes and shapes of arguments and results."""
    added = [each.dtype.as_datatype_enum for each in extras]
    arguments = node.attr["T" if is_loop else "Tin"].list.type
    arguments[:] = [*(arguments[index] for index in kept), *added]
    shapes = node.attr["output_shapes"].list.shape
    if is_loop:
        old = [tf.TensorShape(shapes[index]).as_proto() for index in kept] if shapes else []
    else:
        node.attr["Tout"].list.type.extend(each.dtype.as_datatype_enum for each in returned)
        old = [tf.TensorShape(each).as_proto() for each in shapes]
    if shapes:
        del shapes[:]
        shapes.extend([*old, *(each.shape.as_proto() for each in returned)])
    elif "output_shapes" in node.attr and not shapes:
        del node.attr["output_shapes"]
    node.attr.pop("_num_original_outputs", None)


def _function(
    body: Body, form: SignatureGraph, kept: Sequence[int], extras: Sequence[Extra], *, all_returned: bool
) -> FunctionDef:
    """The function of a form; its name says what it computes.

    Args:
        body: what it was.
        form: what it is to be.
        kept: positions of the old arguments that it still takes.
        extras: arguments that it takes behind them.
        all_returned: whether it is the body of a loop.
    """
    old = body.function
    names = [body.arguments[index] for index in kept]
    function = FunctionDef()
    function.signature.is_stateful = old.signature.is_stateful
    for key, value in old.attr.items():
        function.attr[key].CopyFrom(value)
    taken = [each.inside.get(body.key, f"extra_{index}") for index, each in enumerate(extras)]
    types = [
        *(old.signature.input_arg[index].type for index in kept),
        *(each.dtype.as_datatype_enum for each in extras),
    ]
    arguments = {}
    for position, (name, dtype) in enumerate(zip([*names, *taken], types, strict=True)):
        arguments[name] = f"argument_{position}"
        function.signature.input_arg.add(name=arguments[name], type=dtype)
    results = [
        (form.outputs[index].tensor, each.type)
        for index, each in enumerate(old.signature.output_arg)
        if not all_returned or index in kept
    ]
    for name, each in zip(taken, extras, strict=True):
        if all_returned or (each.results is not None and body.key != CONDITION):
            results.append(((each.results or {}).get(body.key, name), each.dtype.as_datatype_enum))
    needed = reachable(form.graph_def, [node_name(tensor) for tensor, _ in results if tensor not in arguments])
    nodes = {node.name: node for node in form.graph_def.node if node.name in needed and node.name not in arguments}
    inside = _Inside(nodes, arguments, _without_path(nodes, body.path))
    for node in nodes.values():
        made = function.node_def.add()
        made.CopyFrom(node)
        made.name = inside.names[node.name]
        made.input[:] = [each for source in node.input for each in inside.called(source)]
    for position, (tensor, dtype) in enumerate(results):
        function.signature.output_arg.add(name=f"result_{position}", type=dtype)
        (function.ret[f"result_{position}"],) = inside.called(tensor)
    digest = hashlib.sha256(function.SerializeToString(deterministic=True))
    for each in extras:
        digest.update(each.content.encode())
    function.signature.name = f"body_{digest.hexdigest()[:16]}"
    return function


def _without_path(names: Iterable[str], path: str) -> dict[str, str]:
    """Shorter names, by name: the path to a function stands before the names of its nodes only outside it."""
    found: dict[str, str] = {}
    for name in names:
        short = name.removeprefix(f"{path}/")
        while short in found.values():
            short += "_"
        found[name] = short
    return found


@dataclass(frozen=True)
class _Inside:
    """What tensors are called inside a function.

    Args:
        nodes: by their names outside.
        arguments: by their names outside.
        names: of the nodes.
    """

    nodes: Mapping[str, NodeDef]
    arguments: Mapping[str, str]
    names: Mapping[str, str]

    def called(self, source: str) -> Iterator[str]:
        """A tensor or control input inside the function; nothing for a control input that is an argument."""
        if source.startswith("^"):
            if source[1:] in self.nodes:
                yield f"^{self.names[source[1:]]}"
            return
        name, _, index = tensor_name(source).partition(":")
        if name in self.arguments:
            yield self.arguments[name]
            return
        left = int(index or 0)
        attributes = self.nodes[name].attr
        for argument in op_def_registry.get(self.nodes[name].op).output_arg:
            if argument.number_attr:
                length = attributes[argument.number_attr].i
            elif argument.type_list_attr:
                length = len(attributes[argument.type_list_attr].list.type)
            else:
                length = 1
            if left < length:
                yield f"{self.names[name]}:{argument.name}:{left}"
                return
            left -= length
