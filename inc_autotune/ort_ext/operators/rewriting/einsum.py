"""Einsums with a constant operand, written as a product of matrices, which has integer kernels."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_rewritten

_ELLIPSIS = "..."


@dataclass(frozen=True)
class _Product:
    """An Einsum of an activation and a constant, its labels sorted by what becomes of them.

    Args:
        x: labels of the activation.
        w: of the constant.
        y: of the output.
        constant: place of the constant among the inputs.
    """

    x: str
    w: str
    y: str
    constant: int

    @property
    def summed(self) -> str:
        """Labels that the product sums over."""
        return "".join(each for each in self.x if each in self.w and each not in self.y)

    @property
    def stacked(self) -> str:
        """Labels that both operands and the output have: a matrix for each of their values."""
        return "".join(each for each in self.x if each in self.w and each in self.y)

    @property
    def kept(self) -> str:
        """Labels of the activation alone."""
        return "".join(each for each in self.x if each not in self.w)

    @property
    def made(self) -> str:
        """Labels of the constant alone."""
        return "".join(each for each in self.w if each not in self.x)


def multiply_einsums(graph: Graph) -> Graph:
    """Write every Einsum of an activation and a constant that multiplies matrices with Transpose, Reshape and MatMul.

    That is what onnxruntime does inside its Einsum. The MatMul has the name of the Einsum. An Einsum stays as it is
    where it sums over a label of one operand alone, repeats one, or sums over none that both have.
    """
    found = {node.name: product for node in graph.nodes if (product := _product(graph, node)) is not None}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        _write(builder, node, found[node.name])

    return with_rewritten(graph, found, write)


def _product(graph: Graph, node: onnx.NodeProto) -> _Product | None:
    if node.op_type != "Einsum" or node.domain not in ("", "ai.onnx") or len(node.input) != 2:
        return None
    places = [place for place, name in enumerate(node.input) if graph.is_float_constant(name)]
    if len(places) != 1 or graph.shape(node.input[1 - places[0]]) is not None:
        return None
    labels = _labels(graph, node)
    if labels is None:
        return None
    *operands, y = labels
    product = _Product(operands[1 - places[0]], operands[places[0]], y, places[0])
    known = {*product.x, *product.w}
    repeated = any(len(set(each)) < len(each) for each in labels)
    lost = {*product.kept, *product.made} - {*y}
    if repeated or lost or not set(y) <= known or not product.summed:
        return None
    return product


def _labels(graph: Graph, node: onnx.NodeProto) -> list[str] | None:
    """Labels of both operands and of the output, an ellipsis spelled out; None where that cannot be."""
    equation = attributes(node)["equation"].decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    if len(operands) != 2:
        return None
    if not arrow:
        right = "".join(sorted(each for each in set(left) - {",", "."} if left.count(each) == 1))
        right = _ELLIPSIS + right if _ELLIPSIS in left else right
    hidden = [each for each in string.ascii_letters if each not in equation]
    widths = []
    for operand, name in zip(operands, node.input, strict=True):
        shape = graph.shape(name)
        rank = graph.rank(name) if shape is None else len(shape)
        if _ELLIPSIS in operand:
            if rank is None:
                return None
            widths.append(rank - len(operand) + len(_ELLIPSIS))
    if not widths:
        return [*operands, right]
    most = max(widths)
    if any(width not in (0, most) for width in widths) or most > len(hidden):
        return None  # dimensions that only one operand has, in front
    spelled = "".join(hidden[:most])
    counts = iter(widths)
    written = [
        each.replace(_ELLIPSIS, spelled if next(counts) else "") if _ELLIPSIS in each else each for each in operands
    ]
    return [*written, right.replace(_ELLIPSIS, spelled)]


def _write(builder: GraphBuilder, node: onnx.NodeProto, product: _Product) -> None:
    graph, name = builder.base, node.name
    weight = graph.constant(node.input[product.constant])
    sizes = dict(zip(product.w, weight.shape, strict=True))
    order = [product.w.index(each) for each in product.stacked + product.summed + product.made]
    shape = [
        *(sizes[each] for each in product.stacked),
        *(_count(sizes, part) for part in (product.summed, product.made)),
    ]
    matrix = builder.constant(f"{name}.matrix", np.ascontiguousarray(weight.transpose(order)).reshape(shape))

    # [kept..., stacked..., the last kept one, summed] where there is a stack, else [kept..., summed]
    rows = product.kept[-1:] if product.stacked else ""
    front = product.kept[: -len(rows) or None] + product.stacked + rows
    tensor = _transposed(builder, node.input[1 - product.constant], product.x, front + product.summed, f"{name}.x")
    if len(product.summed) > 1:
        tensor = _reshaped(builder, tensor, [*[0] * len(front), -1], f"{name}.rows")
    if product.stacked and not rows:
        axis = builder.constant(f"{name}.axis", np.asarray([len(front)], np.int64))
        tensor = builder.compute("Unsqueeze", [tensor, axis], f"{name}.row")
    made = front + product.made
    perm = [made.index(each) for each in product.y]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("MatMul", [matrix], {})]
    if len(product.made) != 1 or (product.stacked and not rows):
        full = np.asarray([*[0] * len(front), *(sizes[each] for each in product.made)], np.int64)
        steps.append(("Reshape", [builder.constant(f"{name}.made", full)], {}))
    if made != product.y:
        steps.append(("Transpose", [], {"perm": perm}))
    for number, (op_type, others, given) in enumerate(steps, start=1):
        node_name = builder.new_node(f"{name}.{op_type}") if number > 1 else name
        if number == len(steps):
            builder.produce(op_type, [tensor, *others], node.output, node_name, **given)
        else:
            tensor = builder.compute(op_type, [tensor, *others], f"{name}.step{number}", node_name, **given)


def _count(sizes: dict[str, int], labels: str) -> int:
    return int(np.prod([sizes[each] for each in labels], dtype=np.int64))


def _transposed(builder: GraphBuilder, tensor: str, labels: str, wanted: str, name: str) -> str:
    if labels == wanted:
        return tensor
    return builder.compute("Transpose", [tensor], name, perm=[labels.index(each) for each in wanted])


def _reshaped(builder: GraphBuilder, tensor: str, shape: Sequence[int], name: str) -> str:
    """A zero keeps the dimension in its place."""
    return builder.compute("Reshape", [tensor, builder.constant(f"{name}.shape", np.asarray(shape, np.int64))], name)
