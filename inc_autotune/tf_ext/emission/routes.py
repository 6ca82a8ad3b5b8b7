"""The kind of oneDNN primitive that computes an integer operator, which decides how many bits its weight may have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.emission.activation_grid import Range
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import DEPTHWISE, TRANSPOSED_TYPES, Operator, geometry_of, is_pointwise
from inc_autotune.tf_ext.target import has_cpu_kernel

MATMUL_KERNEL = "_QuantizedMatMul"
CONVOLUTION_KERNEL = "_FusedQuantizedConv2D"
DEPTHWISE_KERNEL = "_FusedQuantizedDepthwiseConv2D"

GROUPED_KERNEL = f"{CONVOLUTION_KERNEL} with groups"
"""Stands among missing kernels where convolutions without groups work, but not those with groups."""

GROUPS = "_groups"
"""Attribute of an integer convolution with groups, which says how many; TensorFlow ignores it."""


class Primitive(Enum):
    """Kinds of computation that add up products in different ways."""

    MATMUL = "matrix product"
    CONVOLUTION = "convolution"
    GROUPED = "grouped convolution"
    DEPTHWISE = "depthwise convolution"


@dataclass(frozen=True)
class Route:
    """What computes the products of an operator.

    Args:
        primitive: kind of computation.
        signed: whether the integers of the activation have a sign.
    """

    primitive: Primitive
    signed: bool

    def __str__(self) -> str:
        return f"{self.primitive.value}s of {'signed' if self.signed else 'unsigned'} integers"


ROUTES = tuple(Route(primitive, signed) for primitive in Primitive for signed in (False, True))


def listed(routes: Collection[Route]) -> str:
    """Routes as text, in a fixed order."""
    return " and ".join(str(route) for route in ROUTES if route in routes)


def route_of(graph: Graph, operator: Operator, chains: IntegerChains) -> Route:
    """The route of an operator that is emitted as an integer operator.

    Args:
        graph: the fp32 signature.
        operator: of that graph.
        chains: of that graph and the plan that is emitted.
    """
    shape = graph.shape(operator.weight)
    assert shape is not None
    is_product = operator.is_linear or is_written_as_product(graph, operator, chains.output_range(operator))
    kind = Primitive.MATMUL if is_product else _convolution(shape, is_depthwise=operator.type == DEPTHWISE)
    return Route(kind, chains.reads_signed(operator))


def is_written_as_product(graph: Graph, convolution: Operator, output_range: Range | None) -> bool:
    """Whether a convolution becomes a matrix product, which can return float32, as no integer convolution can.

    Args:
        graph: the fp32 signature.
        convolution: of that graph, of any type.
        output_range: range of the integers that it returns; None: float32.
    """
    if output_range is not None or not has_cpu_kernel(MATMUL_KERNEL):  # TensorFlow 2.16 has none
        return False
    if convolution.type in TRANSPOSED_TYPES:
        return geometry_of(graph, convolution).is_matrix_product
    return is_pointwise(convolution, graph.shape(convolution.weight) or ())


def route_of_node(node: NodeDef, shape: Sequence[int]) -> Route:
    """The route of a node that is an integer operator.

    Args:
        node: of one of the three kernels.
        shape: of the node's weight.
    """
    if node.op == MATMUL_KERNEL:
        return Route(Primitive.MATMUL, node.attr["T1"].type == tf.qint8.as_datatype_enum)
    primitive = _convolution(shape, is_depthwise=node.op == DEPTHWISE_KERNEL)
    return Route(primitive, node.attr["Tinput"].type == tf.qint8.as_datatype_enum)


def _convolution(shape: Sequence[int | None], *, is_depthwise: bool) -> Primitive:
    """The primitive for a weight [height, width, channels, features]; features per channel in a depthwise one.

    A depthwise convolution of one channel is a convolution; one with several features per channel is a grouped one.
    """
    if not is_depthwise or shape[2] == 1:
        return Primitive.CONVOLUTION
    return Primitive.DEPTHWISE if shape[3] == 1 else Primitive.GROUPED
