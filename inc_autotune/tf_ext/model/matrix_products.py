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
        activation: the tensor whose last dimensions are contracted.
        weight: [inputs, features].
        contracted: how many dimensions of the activation make the inputs.
        features: sizes of the last dimensions of the result, which the features become.
        is_matrix: whether activation and result have two dimensions, so that nothing is reshaped.
    """

    activation: str
    weight: FloatArray
    contracted: int
    features: tuple[int, ...]
    is_matrix: bool


def with_matrix_products(signature: SignatureGraph) -> SignatureGraph:
    """The signature with a MatMul, reshaped before and behind, for every Einsum that is one.

    It is one where the last dimensions of an activation are contracted with a constant, and what is left of the
    constant are the last dimensions of the result: `abc,cde->abde` and `abcd,cde->abe`, but not `abc,bd->acd`.
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
    contracted = "".join(letter for letter in activation if letter in weight and letter not in result)
    features = "".join(letter for letter in result if letter in weight and letter not in activation)
    rows = activation.removesuffix(contracted)
    fits = (
        value.dtype == np.float32
        and contracted
        and features
        and "." not in weight
        and sorted(weight) == sorted(contracted + features)
        and (rows + contracted, rows + features) == (activation, result)
        and len(set(activation)) == len(activation)
    )
    if not fits:
        return None
    sizes = dict(zip(weight, value.shape, strict=True))
    ends = tuple(sizes[letter] for letter in features)
    ordered = value.transpose([weight.index(letter) for letter in contracted + features])
    matrix = np.ascontiguousarray(ordered.reshape(-1, math.prod(ends)))
    is_matrix = len(rows) == len(contracted) == len(features) == 1 and rows != "."
    return _Product(tensor, matrix, len(contracted), ends, is_matrix)


def _write(graph: Graph, builder: GraphBuilder, name: str, product: _Product) -> None:
    weight = builder.constant(f"{name}/weight", product.weight)
    attributes = {"T": tf.float32, "transpose_a": False, "transpose_b": False}
    if product.is_matrix:
        builder.make("MatMul", [product.activation, weight], name, **attributes)
        return
    flat = builder.constant(f"{name}/rows", np.array([-1, len(product.weight)], np.int32))
    rows = reshape(builder, product.activation, flat, f"{name}/matrix")
    made = builder.compute("MatMul", [rows, weight], f"{name}/MatMul", **attributes)
    shape = shape_like(graph, builder, product.activation, product.features, name, dropped=product.contracted)
    builder.make("Reshape", [made, shape], name, T=tf.float32, Tshape=tf.int32)
