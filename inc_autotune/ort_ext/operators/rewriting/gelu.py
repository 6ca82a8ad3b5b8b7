"""GELU that an exporter spelled out, written in a form that onnxruntime computes as one operator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN, Graph, GraphBuilder, with_rewritten
from inc_autotune.ort_ext.target import GraphForm


@dataclass(frozen=True)
class _Gelu:
    """The nodes of one GELU.

    Args:
        x: the input of the GELU.
        one_plus_erf: the tensor `1 + erf(x / sqrt(2))`.
        scaling: makes `x / sqrt(2)`.
        last: the Mul that makes the output of the GELU.
        halving: the other Mul.
        others: the nodes behind `scaling` that make `one_plus_erf`.
    """

    x: str
    one_plus_erf: str
    scaling: onnx.NodeProto
    last: onnx.NodeProto
    halving: onnx.NodeProto
    others: tuple[onnx.NodeProto, ...]


def rewrite_gelu(graph: Graph, form: GraphForm) -> Graph:
    """Replace every `0.5 x (1 + erf(x / sqrt(2)))`, in whatever order it is multiplied.

    `torch.onnx.export` writes `x (0.5 (1 + erf))`, which onnxruntime does not recognize; it does recognize
    `(0.5 x) (1 + erf)`. Multiplying by a half is exact, so this order gives the same numbers. The root has to be exact
    too, which that of a model in half precision, 1.4140625, is not, so it is written anew.

    Args:
        graph: the model.
        form: with contrib operators a GELU becomes one Gelu; without, it is multiplied in the order above.
    """
    found = [gelu for gelu in (_match(graph, node) for node in graph.nodes if node.op_type == "Erf") if gelu]
    by_last = {gelu.last.name: gelu for gelu in found}
    dropped = {gelu.halving.name for gelu in found}
    scaled = {gelu.scaling.name: gelu.x for gelu in found if not form.contrib_operators}
    if form.contrib_operators:
        dropped |= {node.name for gelu in found for node in (gelu.scaling, *gelu.others)}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        gelu = by_last.get(node.name)
        if node.name in scaled:
            root = builder.constant(f"{node.name}.root", np.asarray(math.sqrt(2), np.float32))
            builder.produce("Div", [scaled[node.name], root], node.output, node.name)
        if gelu is None:
            return
        if form.contrib_operators:
            builder.produce("Gelu", [gelu.x], node.output, node.name, CONTRIB_DOMAIN)
        else:
            half = builder.constant(f"{node.name}.half", np.asarray(0.5, np.float32))
            halved = builder.compute("Mul", [gelu.x, half], f"{node.output[0]}.halved")
            builder.produce("Mul", [halved, gelu.one_plus_erf], node.output, node.name)

    return with_rewritten(graph, dropped | set(by_last) | set(scaled), write)


def _match(graph: Graph, erf: onnx.NodeProto) -> _Gelu | None:
    scaling = graph.producers.get(erf.input[0])
    plus_one = graph.only_consumer(erf.output[0])
    if scaling is None or graph.only_consumer(erf.input[0]) is None or plus_one is None:
        return None
    x = _unscaled(graph, scaling)
    if x is None or plus_one.op_type != "Add" or not _is(graph, _other(plus_one, erf.output[0]), 1.0):
        return None
    product = graph.only_consumer(plus_one.output[0])
    if product is None or product.op_type != "Mul":
        return None
    factor = _other(product, plus_one.output[0])
    following = graph.only_consumer(product.output[0])
    rest = None if following is None or following.op_type != "Mul" else _other(following, product.output[0])
    found = x, plus_one.output[0], scaling
    others = (erf, plus_one)
    if following is not None and rest is not None and _are_half_and_x(graph, (factor, rest), x):
        return _Gelu(*found, following, product, others)
    halving = graph.producers.get(factor)
    if halving is None or halving.op_type != "Mul" or graph.only_consumer(factor) is None:
        return None
    return _Gelu(*found, product, halving, others) if _are_half_and_x(graph, tuple(halving.input), x) else None


def _are_half_and_x(graph: Graph, factors: tuple[str, ...], x: str) -> bool:
    return x in factors and any(_is(graph, factor, 0.5) for factor in factors)


def _unscaled(graph: Graph, node: onnx.NodeProto) -> str | None:
    """x, if the node computes x / sqrt(2); else None."""
    if node.op_type == "Div" and _is(graph, node.input[1], math.sqrt(2)):
        return str(node.input[0])
    if node.op_type == "Mul":
        for factor, x in (node.input, reversed(node.input)):
            if _is(graph, factor, math.sqrt(0.5)):
                return str(x)
    return None


def _other(node: onnx.NodeProto, operand: str) -> str:
    return str(node.input[1] if node.input[0] == operand else node.input[0])


def _is(graph: Graph, name: str, value: float) -> bool:
    found = graph.scalar(name)
    return found is not None and math.isclose(found, value, rel_tol=1e-3)
