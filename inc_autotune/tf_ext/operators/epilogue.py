"""What follows a product and belongs to it: an affine function of each output feature, and an activation function."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import FloatArray
from inc_autotune.tf_ext.graph import Graph, tensor_name
from inc_autotune.tf_ext.operators.gelu import ActivationFunction, find_gelu

CONVOLUTION_FUNCTIONS = ("Relu", "Relu6")
MATMUL_FUNCTIONS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Tanh", "Sigmoid", "GeluExact", "GeluApproximate")
_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What an operator computes of its product: `function(product * multiplier + bias)`, in another shape perhaps.

    Args:
        affine_output: the tensor after multiplier and bias.
        nodes: names of all nodes but the product's own.
        multiplier: float32 [features]; None: 1.
        bias: float32 [features]; None: 0.
        shape: the tensor with the shape of the result; None: that of the product.
        function: the activation function; None where there is none that kernels know.
    """

    affine_output: str
    nodes: tuple[str, ...] = ()
    multiplier: FloatArray | None = None
    bias: FloatArray | None = None
    shape: str | None = None
    function: ActivationFunction | None = None

    @property
    def output(self) -> str:
        return self.affine_output if self.function is None else self.function.output


def find_epilogue(graph: Graph, node: NodeDef, features: int) -> Epilogue:
    """What can be computed together with a product.

    Args:
        graph: of the node.
        node: a matrix product or convolution, features last. A matrix product may be reshaped and have any activation
            function, a convolution may have a ReLU.
        features: how many.
    """
    convolution = "Conv" in node.op
    found = Epilogue(node.name)
    while (longer := _extended(graph, found, features, reshaped=not convolution)) is not None:
        found = longer
    function = _function(graph, found.affine_output, CONVOLUTION_FUNCTIONS if convolution else MATMUL_FUNCTIONS)
    if function is None:
        return found
    nodes = (*found.nodes, *function.nodes)
    return Epilogue(found.affine_output, nodes, found.multiplier, found.bias, found.shape, function)


def _extended(graph: Graph, found: Epilogue, features: int, *, reshaped: bool) -> Epilogue | None:
    """The same with one more node."""
    node = graph.only_consumer(found.affine_output)
    if node is None:
        return None
    nodes = (*found.nodes, node.name)
    if node.op == "Reshape" and tensor_name(node.input[0]) == found.affine_output:
        # A second one would have to be undone for what comes after it.
        untouched = reshaped and found.shape is None and found.multiplier is None and found.bias is None
        return Epilogue(node.name, nodes, shape=node.input[1]) if untouched else None
    affine = _affine(graph, node, found.affine_output, features)
    if affine is None:
        return None
    multiplier, shift = affine
    scale, bias = found.multiplier, found.bias
    if multiplier is not None:
        scale = multiplier if scale is None else scale * multiplier
        bias = None if bias is None else bias * multiplier
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return Epilogue(node.name, nodes, scale, bias, found.shape)


def _affine(
    graph: Graph, node: NodeDef, tensor: str, features: int
) -> tuple[FloatArray | None, FloatArray | None] | None:
    """Multiplier and shift of each feature, if that is what a node computes of a tensor."""
    if node.op in _BATCH_NORMS:
        return _batch_norm(graph, node, tensor)
    if node.op not in ("BiasAdd", "AddV2", "Add", "Sub", "Mul"):
        return None
    if node.op == "BiasAdd" and node.attr["data_format"].s == b"NCHW":
        return None
    left, right = (tensor_name(each) for each in node.input)
    if node.op == "Sub" and left != tensor:
        return None
    value = graph.constant(right if left == tensor else left)
    if value is None or value.dtype != np.float32:
        return None
    vector = _by_feature(value, graph.shape(tensor), features)
    if vector is None:
        return None
    if node.op == "Mul":
        return vector, None
    return None, -vector if node.op == "Sub" else vector


def _by_feature(value: FloatArray, shape: tuple[int | None, ...] | None, features: int) -> FloatArray | None:
    """A constant that is broadcast to a tensor, as one number for each feature; None where it differs otherwise.

    The features of the tensor may be spread over several dimensions, such as heads and channels of a head.
    """
    # A product has two dimensions at least; more in the constant than in the tensor would be more in the result.
    if value.ndim > (2 if shape is None else len(shape)):
        return None
    if value.size == 1:
        return np.full(features, value.reshape(()), np.float32)
    trailing = value.shape
    while trailing[:1] == (1,) and len(trailing) > 1:
        trailing = trailing[1:]
    if value.size != features or (len(trailing) > 1 and (shape is None or shape[-len(trailing) :] != trailing)):
        return None
    if shape is not None and shape[-1] is not None and shape[-1] != trailing[-1]:
        return None
    return value.reshape(-1)


def _batch_norm(graph: Graph, node: NodeDef, tensor: str) -> tuple[FloatArray | None, FloatArray | None] | None:
    """A batch normalization with fixed statistics that computes nothing else that is read."""
    if node.attr["is_training"].b or tensor_name(node.input[0]) != tensor or node.attr["data_format"].s == b"NCHW":
        return None
    if any(graph.consumers.get(f"{node.name}:{index}") for index in range(1, 6)):
        return None
    constants = [graph.constant(tensor_name(each)) for each in node.input[1:5]]
    if any(each is None for each in constants):
        return None
    scale, offset, mean, variance = (np.asarray(each, np.float32) for each in constants)
    multiplier = scale / np.sqrt(variance + np.float32(node.attr["epsilon"].f))
    return multiplier, offset - mean * multiplier


def _function(graph: Graph, tensor: str, known: Collection[str]) -> ActivationFunction | None:
    node = graph.only_consumer(tensor)
    if node is not None and node.op in known:
        alpha = node.attr["alpha"].f if node.op == "LeakyRelu" else 0.2
        return ActivationFunction(node.op, node.name, (node.name,), alpha)
    return find_gelu(graph, tensor) if "GeluExact" in known else None
