"""Which integer kernels this TensorFlow has, and whether they compute what they should on this processor.

The operators are internal to TensorFlow and promised to nobody, so each is looked up and tried out before it is used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework import kernels as registry

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.graphs.feed import Feed
from inc_autotune.tf_ext.calibration.collect import run_inside
from inc_autotune.tf_ext.calibration.plan import KERNELS as KERNEL_FORM
from inc_autotune.tf_ext.calibration.plan import GraphChoices, OperatorCalibration, QuantizationPlan
from inc_autotune.tf_ext.emission.build import build_signature
from inc_autotune.tf_ext.emission.weights import WeightCache
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.graph.graph_model import GraphModel, SignatureGraph, TensorDescription, placeholder
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.operators.discovery import CONVOLUTION, DEPTHWISE, LINEAR_TYPES, find_operators

logger = logging.getLogger(__name__)

KERNELS = {
    "_QuantizedMatMul": LINEAR_TYPES,
    "_FusedQuantizedConv2D": (CONVOLUTION,),
    "_FusedQuantizedDepthwiseConv2D": (DEPTHWISE,),
}
"""Integer operators and the types they stand for; the first of these is tried out."""

LEAST_DB = 30.0
"""Rounding leaves 40 dB and more on these data, saturation 15 at most."""

_SHAPES = {
    "MatMul": ((32, 64), (64, 16)),
    CONVOLUTION: ((2, 6, 6, 16), (3, 3, 16, 16)),
    DEPTHWISE: ((2, 6, 6, 16), (3, 3, 16, 1)),
}
"""Of the input and the weight."""

_NODES = {
    CONVOLUTION: (
        (CONVOLUTION, "first", "x", "weight"),
        ("Relu", "kept", "first"),
        (CONVOLUTION, "second", "kept", "weight"),
        ("Relu", "read", "second"),
        (CONVOLUTION, "third", "read", "weight"),
        ("AddV2", "sum", "third", "kept"),
        ("Relu", "block", "sum"),
        (CONVOLUTION, "y", "block", "weight"),
    )
}
"""Type, name and inputs: convolutions in every form that is written, between integers, with a sum, and to float32. Of
other types one operator is enough."""

_WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")
_ASYMMETRIC = OpConfig(_WEIGHT, TensorConfig("uint8", "asym", "per_tensor", "minmax"), "static")
_SYMMETRIC = OpConfig(_WEIGHT, TensorConfig("int8", "sym", "per_tensor", "minmax"), "static")


@dataclass(frozen=True)
class KernelSupport:
    """What works here.

    Attributes:
        missing: integer operators that do not exist here, or do not return what they should.
        reduce_range: whether weights must have 7 bits, since sums of two products saturate in 16 bits.
    """

    missing: tuple[str, ...]
    reduce_range: bool

    def runs(self, op_type: str) -> bool:
        """Whether operators of a type have an integer kernel that works."""
        return any(op_type in types for kernel, types in KERNELS.items() if kernel not in self.missing)


@cache
def kernel_support() -> KernelSupport:
    """Look up every kernel and try it out on one operator, once a process."""
    present = {kernel: types[0] for kernel, types in KERNELS.items() if _is_registered(kernel)}
    right = {kernel for kernel, op_type in present.items() if _is_right(op_type, reduce_range=False)}
    reduced = {kernel for kernel in present.keys() - right if _is_right(present[kernel], reduce_range=True)}
    missing = tuple(kernel for kernel in KERNELS if kernel not in right | reduced)
    return KernelSupport(missing, bool(reduced))


def is_simulated(op_type: str, config: OpConfig, form: str) -> bool:
    """Whether an operator of these types is computed in float32, with the values that integers would have.

    Args:
        op_type: of the operator.
        config: how it is quantized.
        form: of the graph; where it is not that of stock TensorFlow, what works here does not matter.
    """
    return not has_kernel(op_type, config) or (form == KERNEL_FORM and not kernel_support().runs(op_type))


def has_kernel(op_type: str, config: OpConfig) -> bool:
    """Whether an integer kernel takes these types: int8 weights, and activations of 8 bits with known ranges."""
    weight, activation = config.weight, config.activation
    if config.approach != "static" or (weight.dtype, weight.scheme) != ("int8", "sym"):
        return False
    allowed = [("int8", "sym"), ("uint8", "sym")]
    if op_type in LINEAR_TYPES:
        allowed.append(("uint8", "asym"))
    return (activation.dtype, activation.scheme) in allowed


def _is_registered(op: str) -> bool:
    found = registry.get_registered_kernels_for_op(op).kernel
    return any(each.device_type == "CPU" and not each.label for each in found)


def _is_right(op_type: str, *, reduce_range: bool) -> bool:
    """Whether operators return what float32 returns, but for rounding, with signed and with unsigned inputs.

    Inputs and weights are all large, so that sums of two products exceed 16 bits where weights have 8.
    """
    generator = np.random.default_rng(0)
    shape, weight_shape = _SHAPES[op_type]
    weight = np.asarray(0.05 + 0.005 * generator.uniform(-1, 1, weight_shape), np.float32)
    x = np.asarray(3 + 0.5 * generator.uniform(-1, 1, shape), np.float32)
    signed = x.copy()
    signed[..., 0] *= -0.2
    try:
        worst = min(_signal_to_noise(op_type, each, weight, reduce_range=reduce_range) for each in (x, signed))
    except tf.errors.OpError:
        logger.debug("the integer kernel of %s failed", op_type, exc_info=True)
        return False
    return worst >= LEAST_DB


def _signal_to_noise(op_type: str, x: FloatArray, weight: FloatArray, *, reduce_range: bool) -> float:
    """How close, in decibels, the integer form of a small model of one type is to float32."""
    signature = _small_model(op_type, x, weight)
    graph = Graph(signature)
    operators = find_operators(graph).found
    read = sorted({tensor for each in operators.values() for tensor in (each.input, each.output)})
    values = run_inside(signature, read, Feed({"x": x}, len(x), frozenset()))
    limits = {tensor: (float(value.min()), float(value.max())) for tensor, value in values.items()}
    plan = QuantizationPlan(
        dict.fromkeys(operators, _ASYMMETRIC if op_type in LINEAR_TYPES else _SYMMETRIC),
        {
            name: OperatorCalibration(limits[each.input], None, limits[each.output] if op_type == DEPTHWISE else None)
            for name, each in operators.items()
        },
        choices=GraphChoices(reduce_range=reduce_range),
    )
    quantized = build_signature(graph, operators, plan, WeightCache())
    return signal_to_noise_db(_output(signature, x), _output(quantized, x))


def _output(signature: SignatureGraph, x: FloatArray) -> Array:
    result: Array = SignatureModel(GraphModel({signature.name: signature}))(x).numpy()
    return result


def _small_model(op_type: str, x: FloatArray, weight: FloatArray) -> SignatureGraph:
    """A signature of operators of one type, which share a float32 weight."""
    graph_def = GraphDef()
    placeholder(graph_def, "x", tf.float32, x.shape)
    placeholder(graph_def, "weight", tf.float32, weight.shape)
    for op, name, *inputs in _NODES.get(op_type, ((op_type, "y", "x", "weight"),)):
        node = graph_def.node.add(op=op, name=name, input=inputs)
        node.attr["T"].type = tf.float32.as_datatype_enum
        if op in (CONVOLUTION, DEPTHWISE):
            node.attr["strides"].list.i.extend([1, 1, 1, 1])
            node.attr["padding"].s = b"SAME"
    description = TensorDescription("x", tf.float32, x.shape, "x:0")
    output = replace(description, name="y", shape=None, tensor="y:0")
    return SignatureGraph("one", graph_def, {"weight": weight}, (description,), (output,), True, {})
