"""The operators of a graph that can be quantized, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import LINEAR_TYPES, Graph, attributes
from inc_autotune.ort_ext.operators.recurrent import RECURRENT_TYPES, SCANNED_TYPES, unscannable
from inc_autotune.ort_ext.operators.transposed_convolution import find_phases
from inc_autotune.ort_ext.operators.unsupported import unsupported_reason

QUANTIZABLE_TYPES = (*LINEAR_TYPES, "Conv", "ConvTranspose", "Gather", *RECURRENT_TYPES)
Layout: TypeAlias = Literal["right", "left", "stack"]
LAYOUTS: tuple[Layout, ...] = ("right", "left", "stack")
BOTH_CONSTANT = "both of its operands are constant"


@dataclass(frozen=True)
class Operator:
    """An operator with a constant weight.

    Args:
        name: of its node.
        type: of its node.
        input: the activation it reads; for a Gather, the indices.
        weight: name of the constant; of a recurrent operator, the one for its input.
        bias: name of the constant of shape [out_features] that is added to the product; None where there is none.
        bias_node: name of the Add that adds it, where that is a node of its own.
        output: the tensor with the result, bias included.
        transposed: whether the weight of a linear operator is stored as [out_features, in_features].
        layout: how the weight of a MatMul multiplies: one matrix that is the second operand ("right") or the first
            ("left"), or a "stack" of matrices [..., in_features, out_features].
    """

    name: str
    type: str
    input: str
    weight: str
    bias: str | None
    bias_node: str | None
    output: str
    transposed: bool = False
    layout: Layout = "right"

    @property
    def is_linear(self) -> bool:
        """Whether its input has channels last, which one matrix multiplies: such operators share inputs and scales."""
        return self.type in LINEAR_TYPES and self.layout == "right"


@dataclass(frozen=True)
class Operators:
    """What was found in a graph.

    Args:
        found: by name, in the order of the graph.
        skipped: (type, reason) by name, of other operators with weights, and of products, that must stay as they are.
    """

    found: Mapping[str, Operator]
    skipped: Mapping[str, tuple[str, str]]


def find_operators(graph: Graph, *, joins_bias: bool = True, layouts: Collection[Layout] = LAYOUTS) -> Operators:
    """Look for MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU and RNN with constant float32 weights.

    Args:
        graph: the model.
        joins_bias: whether a MatMul and the addition of its bias are one operator.
        layouts: how the weight of a MatMul may multiply; others stay as they are.
    """
    found: dict[str, Operator] = {}
    skipped: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        if node.op_type not in QUANTIZABLE_TYPES or node.domain not in ("", "ai.onnx"):
            reason = unsupported_reason(graph, node)
            if reason is not None:
                skipped[node.name] = (node.op_type, reason)
            continue
        result = _FINDERS[node.op_type](graph, node)
        if isinstance(result, Operator) and 0 in (graph.shape(result.weight) or ()):
            result = "its weight has no elements"
        if isinstance(result, Operator) and result.layout not in layouts:
            result = (
                "its weight is a stack of matrices, or the first operand; only onnxruntime's own kernels take these"
            )
        if isinstance(result, Operator):
            if result.bias_node is not None and not joins_bias:
                result = replace(result, bias=None, bias_node=None, output=node.output[0])
            found[node.name] = result
        elif result is not None:
            skipped[node.name] = (node.op_type, result)
    return Operators(found, skipped)


def weight_matrix(operator: Operator, weight: Array) -> Array:
    """The weight of a linear operator as [out_features, in_features], a view."""
    return weight if operator.transposed else weight.T


def _matmul(graph: Graph, node: onnx.NodeProto) -> Operator | str | None:
    left, right = node.input
    if not graph.is_float_constant(right):
        if graph.is_float_constant(left):
            return _left_matmul(graph, node)
        return _why_no_weight(graph, right, "multiplies two activations") if graph.shape(right) is None else None
    if graph.shape(left) is not None:
        return BOTH_CONSTANT
    shape = graph.shape(right) or ()
    if len(shape) < 2:
        return "its weight is a vector; integer kernels take matrices"
    if len(shape) > 2:
        return Operator(node.name, "MatMul", left, right, None, None, node.output[0], layout="stack")
    bias, add = _added_bias(graph, node, shape[1])
    output = node.output[0] if add is None else add.output[0]
    return Operator(node.name, "MatMul", left, right, bias, add.name if add is not None else None, output)


def _left_matmul(graph: Graph, node: onnx.NodeProto) -> Operator | str:
    """A product with its weight first."""
    weight, right = node.input
    rank = graph.rank(right)
    if len(graph.shape(weight) or ()) != 2 or rank is None or rank < 2:
        return "its weight is the first operand, and no matrix, or multiplies a tensor of unknown rank"
    return Operator(node.name, "MatMul", right, weight, None, None, node.output[0], transposed=True, layout="left")


def _why_no_weight(graph: Graph, name: str, otherwise: str) -> str:
    """Why an operand is no weight; `otherwise` where nothing special is known of it."""
    if name in graph.sparse:
        return "its weight is stored as a sparse tensor"
    if name in graph.initializers and name in graph.inputs:
        return "its weight is an input of the model too, which callers may replace"
    computed_by = graph.computed_by(name)
    return otherwise if computed_by is None else f"its weight is computed from constants by a {computed_by}"


def _added_bias(graph: Graph, node: onnx.NodeProto, features: int) -> tuple[str | None, onnx.NodeProto | None]:
    """The constant of shape [features] that the only reader of a node's output adds to it."""
    reader = graph.only_consumer(node.output[0])
    if reader is None or reader.op_type != "Add":
        return None, None
    other = reader.input[1] if reader.input[0] == node.output[0] else reader.input[0]
    if graph.is_float_constant(other) and graph.shape(other) == (features,):
        return other, reader
    return None, None


def _gemm(graph: Graph, node: onnx.NodeProto) -> Operator | str | None:
    given = attributes(node)
    weight = node.input[1]
    if not graph.is_float_constant(weight):
        return _why_no_weight(graph, weight, "its second operand is not a constant float32 weight")
    if graph.shape(node.input[0]) is not None:
        return BOTH_CONSTANT
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0:
        return "it transposes its activation or scales its product (transA, alpha)"
    transposed = bool(given.get("transB", 0))
    features = (graph.shape(weight) or (0, 0))[0 if transposed else 1]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and (
        given.get("beta", 1.0) != 1.0 or not graph.is_float_constant(bias) or graph.shape(bias) != (features,)
    ):
        return f"its bias is scaled (beta), or no constant of shape [{features}]"
    return Operator(node.name, "Gemm", node.input[0], weight, bias, None, node.output[0], transposed)


def _conv(graph: Graph, node: onnx.NodeProto) -> Operator | str | None:
    weight = node.input[1]
    if not graph.is_float_constant(weight):
        return _why_no_weight(graph, weight, "its weight is not a float32 constant")
    if graph.shape(node.input[0]) is not None:
        return BOTH_CONSTANT
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and not graph.is_float_constant(bias):
        return "its bias is not a float32 constant"
    phases = find_phases(graph, node) if node.op_type == "ConvTranspose" else None
    if isinstance(phases, str):
        return phases
    return Operator(node.name, node.op_type, node.input[0], weight, bias, None, node.output[0])


def _gather(graph: Graph, node: onnx.NodeProto) -> Operator | str | None:
    """Lookups in a table of vectors; a Gather that picks elements of a shape is none."""
    table = node.input[0]
    if not graph.is_float_constant(table) or len(graph.shape(table) or ()) != 2:
        return None
    if attributes(node).get("axis", 0) != 0:
        return "it does not look up rows (axis is not 0)"
    return Operator(node.name, "Gather", node.input[1], table, None, None, node.output[0])


def _recurrence(graph: Graph, node: onnx.NodeProto) -> Operator | str | None:
    """A whole recurrence. First states and lengths need not be constants, nor do the bias and peepholes of an LSTM."""
    for weight in node.input[1:3]:
        if not graph.is_float_constant(weight):
            return _why_no_weight(graph, weight, "its weight is not a float32 constant")
    if graph.shape(node.input[0]) is not None:
        return BOTH_CONSTANT
    reason = unscannable(graph, node) if node.op_type in SCANNED_TYPES else None
    if reason is not None:
        return reason
    output = next(name for name in node.output if name)
    return Operator(node.name, node.op_type, node.input[0], node.input[1], None, None, output)


_FINDERS = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv, "Gather": _gather}
_FINDERS |= dict.fromkeys(RECURRENT_TYPES, _recurrence)
