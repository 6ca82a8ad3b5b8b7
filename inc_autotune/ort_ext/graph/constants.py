"""Constants that a model computes from other constants: a transposed weight, say, or a second name of a weight.

The nodes that compute them stay in the graph for readers of the float values, so that a weight that is read twice, once
transposed, is stored once. To quantize such a constant its value is computed here, as a view if NumPy has one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph.graph_model import bodies
from inc_autotune.ort_ext.graph.initializers import is_plain
from inc_autotune.ort_ext.graph.nodes import attributes


@dataclass(frozen=True)
class Constant:
    """What is known of a constant without its value.

    Args:
        data_type: a value of `TensorProto.DataType`.
        shape: of the tensor.
        origin: how the constant is computed, from which initializers; equal for constants that have the same value.
        node: the node that computes the constant; None for an initializer.
    """

    data_type: int
    shape: tuple[int, ...]
    origin: Hashable
    node: onnx.NodeProto | None = None


def derive(
    nodes: Iterable[onnx.NodeProto], constants: MutableMapping[str, Constant], value: Callable[[str], Array]
) -> dict[str, str]:
    """Find the tensors that nodes compute from constants in a way that `compute` knows.

    Args:
        nodes: of a graph, in its order.
        constants: the initializers by name; the computed constants are added.
        value: returns the value of a constant by name; called for small constants only, such as the shape of a Reshape.

    Returns:
        Tensors that have the same value in every run but cannot be computed here, with the type of the node that
        computes them.
    """
    others: dict[str, str] = {}
    for node in nodes:
        given = [name for name in node.input if name]
        if not given or not all(name in constants or name in others for name in given) or bodies(node):
            continue
        try:
            found = _derived(node, [constants.get(name) for name in given], value)
        except (IndexError, KeyError, TypeError, ValueError):  # an invalid node; onnxruntime says what is wrong with it
            found = None
        if found is None:
            others |= dict.fromkeys(node.output, node.op_type)
        else:
            constants[node.output[0]] = found
    return others


def compute(node: onnx.NodeProto, inputs: Sequence[Array]) -> Array:
    """The value of a constant that `derive` found.

    Args:
        node: computes the constant.
        inputs: values of the constants that the node reads.
    """
    if node.op_type in _ARITHMETIC:
        with np.errstate(all="ignore"):  # as in onnxruntime; readers check for finite values
            return np.asarray(_ARITHMETIC[node.op_type](*inputs))
    return _MOVES[node.op_type](attributes(node), *inputs)


def _derived(node: onnx.NodeProto, inputs: Sequence[Constant | None], value: Callable[[str], Array]) -> Constant | None:
    given = [constant for constant in inputs if constant is not None and is_plain(constant.data_type)]
    if len(given) < len(inputs) or len(given) < len(node.input) or node.domain not in ("", "ai.onnx"):
        return None
    first = given[0]
    settings = tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute))
    origin = (node.op_type, settings, *(constant.origin for constant in given))
    if node.op_type in _ARITHMETIC:
        if any(constant.data_type != first.data_type for constant in given) or first.data_type not in _REAL_TYPES:
            return None
        shape = np.broadcast_shapes(*(constant.shape for constant in given))
        return Constant(first.data_type, shape, origin, node)
    if node.op_type == "Cast":
        target = attributes(node)["to"]
        return Constant(target, first.shape, origin, node) if is_plain(target) else None
    if node.op_type not in _MOVES:
        return None
    # Only the shape of the result is needed: it is computed on a broadcast zero, which takes no memory.
    stand_in = np.broadcast_to(np.zeros((), np.float32), first.shape)
    shape = compute(node, [stand_in, *(value(name) for name in node.input[1:])]).shape
    return Constant(first.data_type, shape, first.origin if node.op_type == "Identity" else origin, node)


def _identity(given: Mapping[str, Any], x: Array) -> Array:
    return x


def _cast(given: Mapping[str, Any], x: Array) -> Array:
    with np.errstate(all="ignore"):
        return x.astype(helper.tensor_dtype_to_np_dtype(given["to"]), copy=False)


def _transpose(given: Mapping[str, Any], x: Array) -> Array:
    return x.transpose(given.get("perm"))


def _reshape(given: Mapping[str, Any], x: Array, shape: Array) -> Array:
    keeps_zero = given.get("allowzero", 0)
    sizes = [
        x.shape[axis] if size == 0 and not keeps_zero else int(size) for axis, size in enumerate(shape.reshape(-1))
    ]
    return x.reshape(sizes)


def _flatten(given: Mapping[str, Any], x: Array) -> Array:
    axis = given.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _squeeze(given: Mapping[str, Any], x: Array, axes: Array | None = None) -> Array:
    return x.squeeze(None if axes is None else tuple(int(axis) for axis in axes.reshape(-1)))


def _unsqueeze(given: Mapping[str, Any], x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in axes.reshape(-1)))


_REAL_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_ARITHMETIC: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
_MOVES: dict[str, Callable[..., Array]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
