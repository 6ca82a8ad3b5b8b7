"""Lets a signature return what tensors inside loops, branches and other functions were, at each of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from inc_autotune.tf_ext.graph import (
    Body,
    Extra,
    Graph,
    GraphBuilder,
    SignatureGraph,
    TensorDescription,
    bodies_of,
    node_name,
    reshape,
    rewrite_call,
)

_ANY_SHAPE = np.array(-1, np.int32)


def with_inner_tensors(
    signature: SignatureGraph, tensors: Sequence[str]
) -> tuple[SignatureGraph, Mapping[str, tuple[str, str]]]:
    """The signature with the values of tensors inside functions, which a list carries from run to run.

    Args:
        signature: of the fp32 model.
        tensors: of type float32, called by the path to them: `while/body/MatMul`.

    Returns:
        The new signature, and by tensor two tensors of it: the rows of all runs, one after the other, [rows, channels],
        and how many rows each run had.
    """
    builder = GraphBuilder(Graph(signature))
    empty = {tensor: _empty_list(builder, tensor) for tensor in tensors}
    filled = _add_nodes(builder, empty)
    found = {}
    outputs = list(signature.outputs)
    for tensor, (values, channels) in filled.items():
        shape = builder.constant(f"{node_name(tensor)}/element_shape", np.array([-1, channels], np.int32))
        lengths = builder.constant(f"{node_name(tensor)}/no_lengths", np.zeros(0, np.int64))
        name = builder.compute(
            "TensorListConcatV2",
            [values, shape, lengths],
            f"{node_name(tensor)}/runs",
            element_dtype=tf.float32,
            shape_type=tf.int32,
        )
        found[tensor] = (f"{name}:0", f"{name}:1")
        outputs.append(TensorDescription(name, tf.float32, None, f"{name}:0"))
    return replace(builder.build(outputs=tuple(outputs)), outputs=signature.outputs), found


def _empty_list(builder: GraphBuilder, tensor: str) -> str:
    name = node_name(tensor)
    shape = builder.constant(f"{name}/list_shape", _ANY_SHAPE)
    longest = builder.constant(f"{name}/list_length", _ANY_SHAPE)
    return builder.compute(
        "EmptyTensorList", [shape, longest], f"{name}/list", element_dtype=tf.float32, shape_type=tf.int32
    )


def _add_nodes(builder: GraphBuilder, lists: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Add all nodes of the old graph, and to each list the values of its tensor.

    Args:
        builder: of a new graph.
        lists: by name of the tensor a list that holds earlier values.

    Returns:
        By name of the tensor the list with the values of this run too, and the number of channels; -1: not known.
    """
    graph = builder.base
    by_caller: dict[str, list[Body]] = {}
    for body in bodies_of(graph):
        by_caller.setdefault(body.caller, []).append(body)
    found: dict[str, tuple[str, int]] = {}
    for node in graph.nodes:
        bodies = by_caller.get(node.name, [])
        inside = [tensor for tensor in lists if any(tensor.startswith(f"{body.path}/") for body in bodies)]
        if not inside:
            builder.keep(node)
            continue
        channels: dict[str, int] = {}
        forms, given, made = {}, {}, {}
        for body in bodies:
            own = [tensor for tensor in inside if tensor.startswith(f"{body.path}/")]
            if own:
                forms[body.key], given[body.key], made[body.key], more = _form(body, own)
                channels |= more
        extras = [
            Extra(
                lists[tensor],
                tf.variant,
                tf.TensorShape([]),
                {key: names[tensor] for key, names in given.items() if tensor in names},
                {key: names[tensor] for key, names in made.items() if tensor in names},
            )
            for tensor in inside
        ]
        carried = rewrite_call(builder, node, bodies, forms, extras)
        found |= {tensor: (name, channels[tensor]) for tensor, name in zip(inside, carried, strict=True)}
    for tensor, values in lists.items():
        if node_name(tensor) in graph.by_name:
            found[tensor] = _pushed(builder, tensor, values)
    return found


def _form(body: Body, tensors: Sequence[str]) -> tuple[SignatureGraph, dict[str, str], dict[str, str], dict[str, int]]:
    """A function with lists as arguments and results, the names of both, and numbers of channels, by tensor."""
    builder = GraphBuilder(body.graph)
    given = {
        tensor: builder.compute("Placeholder", [], f"{body.path}/list", dtype=tf.variant, shape=tf.TensorShape([]))
        for tensor in tensors
    }
    filled = _add_nodes(builder, given)
    made = {tensor: values for tensor, (values, _) in filled.items()}
    outputs = [
        *body.graph.signature.outputs,
        *(TensorDescription(tensor, tf.variant, (), values) for tensor, values in made.items()),
    ]
    return builder.build(outputs=tuple(outputs)), given, made, {key: count for key, (_, count) in filled.items()}


def _pushed(builder: GraphBuilder, tensor: str, values: str) -> tuple[str, int]:
    """A list with the rows of a tensor behind its other elements, and the tensor's channels; -1: not known."""
    name = node_name(tensor)
    known = builder.base.shape(tensor)
    channels = -1 if not known or known[-1] is None else known[-1]
    if channels >= 0:
        shape = builder.constant(f"{name}/rows_shape", np.array([-1, channels], np.int32))
    else:
        whole = builder.compute("Shape", [tensor], f"{name}/whole_shape", T=tf.float32, out_type=tf.int32)
        bounds = [
            builder.constant(f"{name}/last_{part}", np.array([value], np.int32))
            for part, value in (("begin", -1), ("end", 0), ("stride", 1))
        ]
        last = builder.compute(
            "StridedSlice",
            [whole, *bounds],
            f"{name}/last",
            T=tf.int32,
            Index=tf.int32,
            begin_mask=0,
            end_mask=1,
            ellipsis_mask=0,
            new_axis_mask=0,
            shrink_axis_mask=0,
        )
        parts = [
            builder.constant(f"{name}/any", np.array([-1], np.int32)),
            last,
            builder.constant(f"{name}/axis", np.array(0, np.int32)),
        ]
        shape = builder.compute("ConcatV2", parts, f"{name}/rows_shape", N=2, T=tf.int32, Tidx=tf.int32)
    rows = reshape(builder, tensor, shape, f"{name}/rows")
    pushed = builder.compute("TensorListPushBack", [values, rows], f"{name}/pushed", element_dtype=tf.float32)
    return pushed, channels
