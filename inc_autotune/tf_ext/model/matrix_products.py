"""Writes an Einsum with a constant weight as a matrix product, which is what it computes.

Keras' EinsumDense, and so MultiHeadAttention, is one where the length of sequences is left open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.tf_ext.graph import Graph, GraphBuilder, SignatureGraph, reshape, shape_like, tensor_name


@dataclass(frozen=True, eq=False)
class _Product:
    """An Einsum as a matrix product.

    Args:
        activation: the tensor that is multiplied.
        order: of its dimensions, so that the contracted ones are last; None: they are.
        weight: [inputs, features].
        contracted: how many dimensions of the activation make the inputs.
        features: sizes of the last dimensions of the result, which the features become.
        is_matrix: whether activation and result have two dimensions, so that nothing is reshaped.
        back: order of the result's dimensions when the features are last; None: they are to be last.
    """

    activation: str
    order: tuple[int, ...] | None
    weight: FloatArray
    contracted: int
    features: tuple[int, ...]
    is_matrix: bool
    back: tuple[int, ...] | None


def with_matrix_products(signature: SignatureGraph) -> SignatureGraph:
    """The signature with a MatMul, reshaped before and behind, for every Einsum that is one.

    It is one where dimensions of an activation are contracted with a constant, and what is left of the constant are
    dimensions of the result: `abc,cde->abde`, `abcd,cde->abe` and, transposed before and behind, `abc,db->adc`; but not
    `abc,bcd->abd`, which is a product of its own for each b.
    """
    if not any(node.op == "Einsum" for node in signature.graph_def.node):
        return signature
    graph = Graph(signature)
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        product = _product(graph, node) if node.op == "Einsum" else None
        if product is None:
            builder.keep(node)
        else:
            _write(graph, builder, node.name, product)
    return builder.build()


def _product(graph: Graph, node: NodeDef) -> _Product | None:
    operands, _, result = node.attr["equation"].s.decode().replace(" ", "").replace("...", ".").partition("->")
    letters = operands.split(",")
    tensors = [tensor_name(each) for each in node.input if not each.startswith("^")]
    if len(letters) != 2:
        return None
    for index in (1, 0):
        value = graph.constant(tensors[index])
        if value is not None:
            activation, weight = letters[1 - index], letters[index]
            return _with_weight(tensors[1 - index], activation, value, weight, result)
    return None


def _with_weight(tensor: str, activation: str, value: Array, weight: str, result: str) -> _Product | None:
    """The product, where these letters are one."""
    alone = [index for index, letter in enumerate(weight) if letter not in activation + result]
    weight = "".join(letter for index, letter in enumerate(weight) if index not in alone)
    value = value.sum(axis=tuple(alone))
    contracted = "".join(letter for letter in activation if letter in weight and letter not in result)
    features = "".join(letter for letter in result if letter in weight and letter not in activation)
    rows = "".join(letter for letter in activation if letter not in weight)
    fits = (
        value.dtype == np.float32
        and contracted
        and features
        and "." not in weight
        and sorted(weight) == sorted(contracted + features)
        and sorted(rows + features) == sorted(result)
        and sorted(rows + contracted) == sorted(activation)
        and len(set(activation)) == len(activation)
    )
    order, back = _order(activation, rows + contracted), _order(rows + features, result)
    # How many dimensions an ellipsis stands for is not known, so it stays where it is.
    if not fits or ("." in activation and (order or back)):
        return None
    sizes = dict(zip(weight, value.shape, strict=True))
    ends = tuple(sizes[letter] for letter in features)
    ordered = value.transpose([weight.index(letter) for letter in contracted + features])
    matrix = np.ascontiguousarray(ordered.reshape(-1, math.prod(ends)))
    is_matrix = len(rows) == len(contracted) == len(features) == 1 and rows != "." and not (order or back)
    return _Product(tensor, order, matrix, len(contracted), ends, is_matrix, back)


def _order(given: str, wanted: str) -> tuple[int, ...] | None:
    """Where each dimension comes from; None where nothing moves, or letters differ."""
    return None if given == wanted or sorted(given) != sorted(wanted) else tuple(map(given.index, wanted))


def _write(graph: Graph, builder: GraphBuilder, name: str, product: _Product) -> None:
    weight = builder.constant(f"{name}/weight", product.weight)
    attributes = {"T": tf.float32, "transpose_a": False, "transpose_b": False}
    if product.is_matrix:
        builder.make("MatMul", [product.activation, weight], name, **attributes)
        return
    source, known = product.activation, graph.shape(product.activation)
    if product.order is not None:
        source = _transposed(builder, source, product.order, builder.new(f"{name}/ordered"))
        known = None if known is None else tuple(known[index] for index in product.order)
    flat = builder.constant(f"{name}/rows", np.array([-1, len(product.weight)], np.int32))
    rows = reshape(builder, source, flat, f"{name}/matrix")
    made = builder.compute("MatMul", [rows, weight], f"{name}/MatMul", **attributes)
    shape = shape_like(graph, builder, source, product.features, name, dropped=product.contracted, known=known)
    last = name if product.back is None else builder.new(f"{name}/features_last")
    builder.make("Reshape", [made, shape], last, T=tf.float32, Tshape=tf.int32)
    if product.back is not None:
        _transposed(builder, last, product.back, name)


def _transposed(builder: GraphBuilder, tensor: str, order: tuple[int, ...], name: str) -> str:
    places = builder.constant(f"{name}/order", np.array(order, np.int32))
    return builder.make("Transpose", [tensor, places], name, T=tf.float32, Tperm=tf.int32)
