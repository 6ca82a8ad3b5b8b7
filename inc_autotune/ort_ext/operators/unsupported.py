"""Operators with weights that have no quantized form here, and how much of the model they are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping

import onnx

from inc_autotune.ort_ext.graph import Graph, bodies

WITHOUT_KERNEL = ("DeformConv", "Einsum")
"""onnxruntime has no integer kernels for these on the CPU."""


def unsupported_reason(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Why an operator with a weight stays in fp32; None for operators without, and for those that may leave it.

    A weight is a constant of two dimensions or more, so that the gains and biases of fused operators are none.
    """
    standard = node.domain in ("", "ai.onnx")
    if standard and node.op_type not in WITHOUT_KERNEL:
        return None
    if next(_constants_behind(graph, node), None) is None:
        return None
    if not standard:
        return f"{node.domain} operators stay as they are; give the model as it was before onnxruntime optimized it"
    return f"onnxruntime has no integer kernel for {node.op_type}"


def weights_of(graph: Graph, name: str) -> dict[Hashable, int]:
    """Elements of the weights an operator reads, also of those that constants are computed from, by their origin.

    A weight is a constant of two dimensions or more. Of an operator inside a body see `weights_in_bodies`.
    """
    node = graph.by_name.get(name)
    if node is None:
        return {}
    found: dict[Hashable, int] = {}
    for each in _constants_behind(graph, node):
        found[graph.origin(each)] = math.prod(graph.shape(each) or ())
    return found


def weights_in_bodies(graph: Graph) -> dict[str, dict[Hashable, int]]:
    """The same of the operators inside bodies of If, Loop and Scan, by their path: `If_0/then_branch/MatMul_3`."""
    outer = {
        name: (graph.origin(name), math.prod(graph.shape(name) or ()))
        for name in graph.initializers
        if graph.is_float_constant(name) and len(graph.shape(name) or ()) > 1
    }
    return dict(_weights_in_bodies(graph.nodes, outer, ""))


def _weights_in_bodies(
    nodes: Iterable[onnx.NodeProto], visible: Mapping[str, tuple[Hashable, int]], path: str
) -> Iterator[tuple[str, dict[Hashable, int]]]:
    for node in nodes:
        for label, body in bodies(node):
            inside = f"{path}{node.name}/{label}/"
            own = {
                each.name: (inside + each.name, math.prod(each.dims))
                for each in body.initializer
                if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1
            }
            known = {**visible, **own}
            for each in body.node:
                yield inside + each.name, dict(known[name] for name in each.input if name in known)
            yield from _weights_in_bodies(body.node, known, inside)


def _constants_behind(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """The weights a node reads. Behind a value that constants give in a way that is not followed, all of these."""
    for name in dict.fromkeys(node.input):
        if graph.is_float_constant(name):
            if len(graph.shape(name) or ()) > 1:
                yield name
        elif graph.computed_by(name) is not None:
            yield from _constants_behind(graph, graph.producers[name])
