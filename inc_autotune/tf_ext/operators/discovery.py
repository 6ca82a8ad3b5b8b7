"""The operators of a graph that can be quantized, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import FloatArray
from inc_autotune.tf_ext.graph import COPIES, Graph, tensor_name
from inc_autotune.tf_ext.operators.epilogue import Epilogue, find_epilogue
from inc_autotune.tf_ext.operators.transposed import UNKNOWN_SIZE, TransposedGeometry, transposed_geometry
from inc_autotune.tf_ext.operators.unsupported import (
    TWO_ACTIVATIONS,
    body_reasons,
    computed_weight_reason,
    unsupported_reason,
)

LINEAR_TYPES = ("MatMul", "BatchMatMulV2", "BatchMatMulV3")
CONVOLUTION = "Conv2D"
DEPTHWISE = "DepthwiseConv2dNative"
TRANSPOSED_TYPES = ("Conv2DBackpropInput", "Conv3DBackpropInputV2")
VOLUME = "Conv3D"
LOOKUP = "GatherV2"
NOT_FLOAT32 = ", not float32: build the model in float32, in Keras with the dtype policy 'float32', and tune that"

FOLDED_WEIGHT = "/merged_input"
"""Ends the name that TensorFlow's passes give to a convolution's weight with a BatchNorm in it."""


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with a constant weight, and what is computed together with it.

    Args:
        name: of the product's node; of a convolution with a BatchNorm in it, the name it had before.
        node: the product's node.
        type: of that node.
        input: the activation it reads. Of a linear operator without the Reshape to a matrix, so that all that read one
            tensor are known.
        weight: name of the constant.
        epilogue: what follows the product.
        features: how many it makes.
        transposed: whether the weight of a linear operator is stored as [features, inputs].
        groups: of a convolution, whose features read the channels of their group alone.
    """

    name: str
    node: NodeDef
    type: str
    input: str
    weight: str
    epilogue: Epilogue
    features: int
    transposed: bool = False
    groups: int = 1

    @property
    def is_linear(self) -> bool:
        return self.type in LINEAR_TYPES

    @property
    def input_of_product(self) -> str:
        """The tensor that the product's node reads: the input, perhaps reshaped."""
        return tensor_name(self.node.input[self.position])

    @property
    def position(self) -> int:
        """Of the activation among the inputs of the node; a transposed convolution is given its size first."""
        return {**dict.fromkeys(TRANSPOSED_TYPES, 2), LOOKUP: 1}.get(self.type, 0)

    @property
    def weight_position(self) -> int:
        """Of the weight among the inputs of the node."""
        return 0 if self.type == LOOKUP else 1

    @property
    def may_return_integers(self) -> bool:
        """Whether it can be written as an operator whose output is integers."""
        return not self.is_linear and self.type != LOOKUP and self.groups == 1

    @property
    def output(self) -> str:
        return self.epilogue.output

    @property
    def function(self) -> str | None:
        """Kind of the activation function that is computed last; None where there is none."""
        function = self.epilogue.function
        return None if function is None else function.kind

    @property
    def without_function(self) -> Operator:
        """The operator alone, for a kernel that computes no activation function."""
        function = self.epilogue.function
        if function is None:
            return self
        nodes = tuple(name for name in self.epilogue.nodes if name not in function.nodes)
        return replace(self, epilogue=replace(self.epilogue, nodes=nodes, function=None))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes that an integer operator stands for."""
        return (self.node.name, *self.epilogue.nodes)


@dataclass(frozen=True)
class Operators:
    """What was found in a graph.

    Args:
        found: by name, in the order of the graph.
        skipped: (type, reason) by name, of products that must stay as they are.
    """

    found: Mapping[str, Operator]
    skipped: Mapping[str, tuple[str, str]]


def find_operators(graph: Graph) -> Operators:
    """Look for matrix products and convolutions with constant float32 weights."""
    found: dict[str, Operator] = {}
    skipped: dict[str, tuple[str, str]] = {}
    made: set[str] = set()
    for node in graph.nodes:
        result = _operator(graph, node, made)
        if isinstance(result, Operator):
            found[result.name] = result
            made.add(result.output)
        elif result is not None:
            skipped[node.name] = (node.op, result)
    return Operators(found, {**skipped, **body_reasons(graph)})


def kernel_weight(graph: Graph, operator: Operator) -> FloatArray:
    """The weight with the epilogue's multiplier in it, float32.

    Returns:
        Of a linear operator [inputs, features]; of a convolution [height, width, inputs of a group, features]; of a
        depthwise one [height, width, inputs, multiplier]; of a transposed one that of the ordinary convolution that it
        is computed by, see `TransposedGeometry`; of one in three dimensions [height, width, depth x inputs, features].
    """
    weight = graph.constant(operator.weight)
    assert weight is not None
    if operator.is_linear:
        weight = weight.T if operator.transposed else weight
    multiplier = operator.epilogue.multiplier
    if operator.type in TRANSPOSED_TYPES:
        weight = geometry_of(graph, operator).kernel(weight if multiplier is None else weight * multiplier[:, None])
        multiplier = None
    if weight.ndim == 5:
        weight = weight.transpose(1, 2, 0, 3, 4).reshape(*weight.shape[1:3], -1, weight.shape[4])
    if multiplier is None:
        return weight
    return weight * (multiplier.reshape(weight.shape[2:]) if operator.type == DEPTHWISE else multiplier)


def geometry_of(graph: Graph, operator: Operator) -> TransposedGeometry:
    """How a transposed convolution is computed."""
    found = _transposed_geometry(graph, operator.node)
    assert isinstance(found, TransposedGeometry)
    return found


def is_pointwise(operator: Operator, shape: Sequence[int | None]) -> bool:
    """Whether a convolution is a matrix product of each position's channels.

    Args:
        operator: of any type.
        shape: of its weight.
    """
    attributes = operator.node.attr
    is_padded = attributes["padding"].s == b"EXPLICIT" and any(attributes["explicit_paddings"].list.i)
    is_whole = all(step == 1 for step in attributes["strides"].list.i) and not is_padded
    ungrouped = operator.type in (CONVOLUTION, VOLUME) and operator.groups == 1
    return ungrouped and all(size == 1 for size in shape[:-2]) and is_whole


def _operator(graph: Graph, node: NodeDef, made: Collection[str]) -> Operator | str | None:
    if node.op in LINEAR_TYPES:
        return _linear(graph, node, made)
    if node.op in (CONVOLUTION, DEPTHWISE):
        return _convolution(graph, node)
    if node.op in TRANSPOSED_TYPES:
        return _transposed(graph, node)
    if node.op == VOLUME:
        return _volume(graph, node)
    if node.op == LOOKUP:
        return _lookup(graph, node)
    return unsupported_reason(graph, node)


def _linear(graph: Graph, node: NodeDef, made: Collection[str]) -> Operator | str | None:
    batched = node.op != "MatMul"
    transposes = [node.attr[key].b for key in (("adj_x", "adj_y") if batched else ("transpose_a", "transpose_b"))]
    left, right = (tensor_name(each) for each in node.input)
    weight = graph.constant(right)
    if weight is None:
        if graph.constant_node(left) is not None:
            return "its weight is the first operand; integer kernels take it as the second"
        return computed_weight_reason(graph, right) or computed_weight_reason(graph, left) or TWO_ACTIVATIONS
    if graph.constant_node(left) is not None:
        return "both of its operands are constant"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}{NOT_FLOAT32}"
    if transposes[0]:
        return "it transposes its activation"
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} dimensions; integer kernels take 2"
    inputs, features = weight.shape[::-1] if transposes[1] else weight.shape
    weight_node = graph.constant_node(right)
    assert weight_node is not None
    epilogue = find_epilogue(graph, node, features)
    source = _before_reshape(graph, left, inputs, made)
    return Operator(node.name, node, node.op, source, weight_node, epilogue, features, transposes[1])


def _before_reshape(graph: Graph, tensor: str, channels: int, made: Collection[str]) -> str:
    """The tensor that a matrix [rows, channels] was made of by joining its dimensions but the last.

    What an operator made (`made`) may end with a Reshape, before which there is nothing to be read.
    """
    node = graph.producer(tensor)
    while node.op in ("Reshape", *COPIES) and node.input and tensor not in made and node.input[-1][0] != "^":
        source = tensor_name(node.input[0])
        shape = graph.shape(source)
        if not shape or shape[-1] != channels:
            break
        tensor, node = source, graph.producer(source)
    return tensor


def _convolution(graph: Graph, node: NodeDef) -> Operator | str | None:
    source, filters = (tensor_name(each) for each in node.input)
    weight = graph.constant(filters)
    problem = _filter_problem(graph, node, filters, b"NHWC")
    if problem is not None or weight is None:
        return problem
    weight_node = graph.constant_node(filters)
    assert weight_node is not None
    depthwise = node.op == DEPTHWISE
    features = weight.shape[2] * weight.shape[3] if depthwise else weight.shape[3]
    channels = (graph.shape(source) or (None,))[-1]
    if channels is None:
        return "its number of channels is not known"
    groups = 1 if depthwise else channels // weight.shape[2]
    epilogue = find_epilogue(graph, node, features)
    name = weight_node.removesuffix(FOLDED_WEIGHT) if weight_node.endswith(FOLDED_WEIGHT) else node.name
    return Operator(name, node, node.op, source, weight_node, epilogue, features, groups=groups)


def _transposed(graph: Graph, node: NodeDef) -> Operator | str:
    _, filters, source = (tensor_name(each) for each in node.input)
    weight = graph.constant(filters)
    problem = _filter_problem(graph, node, filters, b"NHWC" if node.op == TRANSPOSED_TYPES[0] else b"NDHWC")
    if problem is not None or weight is None:
        return problem or ""
    geometry = _transposed_geometry(graph, node)
    if isinstance(geometry, str):
        return geometry
    weight_node = graph.constant_node(filters)
    assert weight_node is not None
    features = weight.shape[-2]
    return Operator(node.name, node, node.op, source, weight_node, find_epilogue(graph, node, features), features)


def _transposed_geometry(graph: Graph, node: NodeDef) -> TransposedGeometry | str:
    shape = graph.shape(node.input[1])
    assert shape is not None
    sizes = [size or 0 for size in shape]
    return transposed_geometry(node, sizes, graph.shape(tensor_name(node.input[2])), graph.shape(node.name))


def _volume(graph: Graph, node: NodeDef) -> Operator | str:
    source, filters = (tensor_name(each) for each in node.input)
    weight = graph.constant(filters)
    problem = _filter_problem(graph, node, filters, b"NDHWC")
    if problem is not None or weight is None:
        return problem or ""
    shape = graph.shape(source)
    if shape is None or None in shape[1:]:
        return UNKNOWN_SIZE
    if shape[-1] != weight.shape[3]:
        return "it has groups, which TensorFlow computes on a CPU by XLA alone"
    weight_node = graph.constant_node(filters)
    assert weight_node is not None
    features = weight.shape[4]
    return Operator(node.name, node, node.op, source, weight_node, find_epilogue(graph, node, features), features)


def _lookup(graph: Graph, node: NodeDef) -> Operator | None:
    """A table whose rows are looked up; what else reads rows of a constant is no operator."""
    table, rows, axis = (tensor_name(each) for each in node.input[:3])
    weight, along = graph.constant(table), graph.constant(axis)
    weight_node = graph.constant_node(table)
    plain = weight is not None and weight.ndim == 2 and weight.dtype == np.float32 and min(weight.shape) > 1
    if (
        not plain
        or along is None
        or int(along) != 0
        or node.attr["batch_dims"].i
        or graph.constant_node(rows) is not None
    ):
        return None
    assert weight is not None
    assert weight_node is not None
    return Operator(node.name, node, node.op, rows, weight_node, Epilogue(node.name), weight.shape[1])


def _filter_problem(graph: Graph, node: NodeDef, filters: str, data_format: bytes) -> str | None:
    """Why a convolution's filter cannot be quantized; None where it can."""
    weight = graph.constant(filters)
    if weight is None:
        return computed_weight_reason(graph, filters) or "its filter is not constant"
    if weight.dtype != np.float32:
        return f"its filter is {weight.dtype}{NOT_FLOAT32}"
    if node.attr["data_format"].s not in (b"", data_format):
        return f"its data format is not {data_format.decode()}"
    return None
