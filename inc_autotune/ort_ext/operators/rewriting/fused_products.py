"""Products and convolutions that onnxruntime's optimizer fused with what stood around them, written as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, Graph, GraphBuilder, attributes, with_rewritten

_First: TypeAlias = tuple[str, Sequence[str], dict[str, Any]]
"""Type, inputs and attributes of a node."""

_PLAIN_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_FUSED = ("activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma")


def separate_products(graph: Graph) -> Graph:
    """Write every FusedMatMul, FusedGemm and FusedConv with a constant weight as a MatMul, Gemm or Conv.

    Transpositions and factors of weights are computed where these are quantized, see `graph.constants`. onnxruntime
    fuses again what stays in fp32. A product stays as it is if it transposes batches, or an activation of unknown rank,
    and so does one with an activation behind it that is not known here.
    """
    found = {node.name for node in graph.nodes if node.domain == CONTRIB_DOMAIN and _is_separable(graph, node)}
    return with_rewritten(graph, found, lambda builder, node: _WRITERS[node.op_type](builder, node))


def _is_separable(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "FusedMatMul":
        given = attributes(node)
        places = [place for place in (0, 1) if graph.is_float_constant(node.input[place])]
        if len(places) != 1 or given.get("transBatchA", 0) or given.get("transBatchB", 0):
            return False
        turned = given.get(("transA", "transB")[1 - places[0]], 0)
        return not turned or graph.rank(node.input[1 - places[0]]) is not None
    if node.op_type not in ("FusedGemm", "FusedConv") or not graph.is_float_constant(node.input[1]):
        return False
    activation = attributes(node).get("activation", b"").decode()
    return activation in ("", *_PLAIN_ACTIVATIONS, *_PARAMETERS, "Clip")


def _write_matmul(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    given, operands = attributes(node), list(node.input)
    for place, key in enumerate(("transA", "transB")):
        if given.get(key, 0):
            shape = builder.base.shape(operands[place])
            rank = builder.base.rank(operands[place]) if shape is None else len(shape)
            operands[place] = swapped(builder, operands[place], rank or 2)
    alpha = given.get("alpha", 1.0)
    if alpha != 1.0:
        place = next(place for place in (0, 1) if builder.base.is_float_constant(node.input[place]))
        operands[place] = scaled(builder, operands[place], alpha)
    builder.produce("MatMul", operands, node.output, node.name)


def swapped(builder: GraphBuilder, tensor: str, rank: int) -> str:
    """A tensor with its last two dimensions swapped; of a vector the tensor itself."""
    if rank < 2:
        return tensor
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return builder.compute("Transpose", [tensor], f"{tensor}.swapped", perm=perm)


def scaled(builder: GraphBuilder, tensor: str, factor: float) -> str:
    """A tensor times a number."""
    constant = builder.constant(f"{tensor}.factor", np.asarray(factor, np.float32))
    return builder.compute("Mul", [tensor, constant], f"{tensor}.scaled")


def _write_gemm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    given = attributes(node)
    parameters = dict(
        zip(("alpha", "beta"), (given.get(f"activation_{key}") for key in ("alpha", "beta")), strict=True)
    )
    kept = {name: value for name, value in given.items() if name not in _FUSED}
    activation = given.get("activation", b"").decode()
    known = {name: value for name, value in parameters.items() if value is not None}
    _write_activated(builder, node, ("Gemm", node.input, kept), activation, known)


def _write_conv(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    given = attributes(node)
    activation, values = given.get("activation", b"").decode(), given.get("activation_params", [])
    names = _PARAMETERS.get(activation, ("min", "max"))
    kept = {name: value for name, value in given.items() if name not in _FUSED}
    inputs = [*node.input[:3]]
    if len(node.input) > 3 and node.input[3]:
        conv = builder.compute("Conv", inputs, f"{node.name}.conv", node.name, **kept)
        first: _First = ("Add", [conv, node.input[3]], {})
        _write_activated(builder, node, first, activation, dict(zip(names, values, strict=False)), f"{node.name}.Add")
        return
    _write_activated(builder, node, ("Conv", inputs, kept), activation, dict(zip(names, values, strict=False)))


def _write_activated(
    builder: GraphBuilder,
    node: onnx.NodeProto,
    first: _First,
    activation: str,
    parameters: Mapping[str, float],
    name: str = "",
) -> None:
    """Write a node, and the activation behind it if there is one."""
    op_type, inputs, given = first
    name = builder.new_node(name) if name else node.name
    if not activation:
        builder.produce(op_type, inputs, node.output, name, **given)
        return
    result = builder.compute(op_type, inputs, f"{name}.product", name, **given)
    last = builder.new_node(f"{node.name}.{activation}")
    if activation == "Clip":
        limits = [builder.constant(f"{last}.{key}", np.asarray(value, np.float32)) for key, value in parameters.items()]
        builder.produce("Clip", [result, *limits], node.output, last)
    else:
        used: dict[str, Any] = {key: parameters[key] for key in _PARAMETERS.get(activation, ()) if key in parameters}
        builder.produce(activation, [result], node.output, last, **used)


_WRITERS = {"FusedMatMul": _write_matmul, "FusedGemm": _write_gemm, "FusedConv": _write_conv}
