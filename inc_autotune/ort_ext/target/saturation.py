"""Whether this processor's integer products saturate, found out by trying."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from inc_autotune.core.quantization import integer_type
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN

Kernel: TypeAlias = Literal["MatMul", "Conv", "depthwise Conv", "LSTM"]
"""Operators with kernels of their own. A Gemm runs those of a MatMul."""

KERNELS: tuple[Kernel, ...] = ("MatMul", "Conv", "depthwise Conv", "LSTM")

_CHANNELS = 64
_KERNEL_SIZE = 3
_ROWS = (1, 4)
"""Rows of the activation of a matrix product: onnxruntime has a separate kernel for a single row."""

_STEPS = 100.0
"""Largest integer that the output of a convolution is quantized to."""

_TOLERANCE = 0.1
"""Relative. Saturated sums are half of the exact sum, and an output in `_STEPS` is off by half a step."""


@cache
def saturates(kernel: Kernel, activation: str, weight: str) -> bool:
    """Whether this processor gets sums of products of 8-bit integers wrong.

    Without VNNI two products of uint8 and int8 are added in 16 bits, which hold 255 * 64 * 2 but not 255 * 127 * 2.
    Whether that happens depends on the kernel. So the operators that this library writes are tried with the largest
    and smallest integers, after onnxruntime's own fusions: among QuantizeLinear and DequantizeLinear these turn signed
    activations into unsigned ones.

    Args:
        kernel: the operator type.
        activation: "uint8" or "int8".
        weight: "uint8" or "int8".
    """
    if kernel == "MatMul":
        inputs = [(rows, _CHANNELS) for rows in _ROWS]
        graphs = [_quantized([helper.make_node("MatMul", ["x.float", "w.float"], ["y"])]), _INTEGER_PRODUCT]
        matrix = (_CHANNELS, _CHANNELS)
        return any(_is_wrong(graph, x, matrix, activation, weight, _CHANNELS) for graph in graphs for x in inputs)
    if kernel == "LSTM":
        steps = [(1, rows, _CHANNELS) for rows in _ROWS]
        gates = (1, _CHANNELS, 4 * _CHANNELS)
        # Its activations are unsigned whatever reads them.
        return any(_is_wrong(_ONE_STEP, x, gates, "uint8", weight, _CHANNELS) for x in steps)
    group = _CHANNELS if kernel == "depthwise Conv" else 1
    count = _CHANNELS // group * _KERNEL_SIZE**2
    nodes = [
        helper.make_node("Conv", ["x.float", "w.float"], ["y.float"], group=group),
        helper.make_node("QuantizeLinear", ["y.float", "y.scale", "y.zero"], ["y.integers"]),
        helper.make_node("DequantizeLinear", ["y.integers", "y.scale", "y.zero"], ["y"]),
    ]
    window = (_KERNEL_SIZE, _KERNEL_SIZE)
    shapes = (1, _CHANNELS, *window), (_CHANNELS, _CHANNELS // group, *window)
    return _is_wrong(_quantized(nodes), *shapes, activation, weight, count)


_INTEGER_PRODUCT = [helper.make_node("MatMulInteger", ["x.integers", "w", "x.zero", "w.zero"], ["y"])]


_ONE_STEP = [
    # The gates are 1, and what they let through are the sums of products.
    helper.make_node(
        "DynamicQuantizeLSTM",
        ["x", "w", "w", *[""] * 5, "ones", "zeros", "ones", "zeros"],
        ["y"],
        domain=CONTRIB_DOMAIN,
        hidden_size=_CHANNELS,
        activations=["Affine"] * 3,
        activation_alpha=[0.0, 1.0, 1.0],
        activation_beta=[1.0, 0.0, 0.0],
    ),
]


def _quantized(nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
    """Nodes preceded by the DequantizeLinear nodes of their activation and their weight."""
    return [
        helper.make_node("DequantizeLinear", ["x.integers", "one", "x.zero"], ["x.float"]),
        helper.make_node("DequantizeLinear", ["w", "one", "w.zero"], ["w.float"]),
        *nodes,
    ]


def _is_wrong(
    nodes: Sequence[NodeProto],
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    activation: str,
    weight: str,
    count: int,
) -> bool:
    """Whether nodes that compute "y" from the integers "x.integers" and "w" give another result than exact arithmetic.

    Args:
        nodes: of the graph.
        x_shape: of the activation.
        w_shape: of the weight.
        activation: dtype of "x.integers".
        weight: dtype of "w".
        count: products that are added up for each output.
    """
    x_zero = 0  # so that an unsigned activation is as far from it as can be
    w_zero = _middle(weight)
    quantize = helper.make_node("QuantizeLinear", ["x", "one", "x.zero"], ["x.integers"])
    for x, w in product(_limits(activation), _limits(weight)):
        expected = (x - x_zero) * (w - w_zero) * count
        constants = {
            "one": np.float32(1),
            "x.zero": np.asarray(x_zero, activation),
            "w": np.full(w_shape, w, weight),
            "w.zero": np.asarray(w_zero, weight),
            "ones": np.ones(1, np.float32),
            "zeros": np.asarray([w_zero], weight),
            "y.scale": np.float32(max(abs(expected), 1) / _STEPS),
            "y.zero": np.asarray(_middle(activation), activation),
        }
        session = _session([quantize, *nodes], constants, x_shape)
        found = session.run(None, {"x": np.full(x_shape, x, np.float32)})[0]
        if np.abs(found.astype(np.float64) - expected).max() > _TOLERANCE * abs(expected):
            return True
    return False


def _limits(dtype: str) -> tuple[int, int]:
    kind = integer_type(dtype)
    return kind.minimum, kind.maximum


def _middle(dtype: str) -> int:
    return 0 if integer_type(dtype).signed else 128


def _session(
    nodes: Sequence[NodeProto], constants: dict[str, Any], shape: tuple[int, ...]
) -> onnxruntime.InferenceSession:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(CONTRIB_DOMAIN, 1)], ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
