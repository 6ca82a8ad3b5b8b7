"""Which integer kernels this TensorFlow has, and whether they compute correctly on this processor.

The operators are internal to TensorFlow and no part of its API, so each is looked up and tried out before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.graphs import Feed, OperatorCalibration, WeightCache
from inc_autotune.tf_ext.calibration import QuantizationPlan, run_inside
from inc_autotune.tf_ext.emission import (
    CONVOLUTION_KERNEL,
    DEPTHWISE_KERNEL,
    GROUPED_KERNEL,
    MATMUL_KERNEL,
    ROUTES,
    Primitive,
    Route,
    build_signature,
)
from inc_autotune.tf_ext.graph import Graph, GraphModel, SignatureGraph, TensorDescription, placeholder
from inc_autotune.tf_ext.model import SignatureModel
from inc_autotune.tf_ext.operators import (
    CONVOLUTION,
    DEPTHWISE,
    LINEAR_TYPES,
    LOOKUP,
    TRANSPOSED_TYPES,
    VOLUME,
    Operator,
    find_operators,
)
from inc_autotune.tf_ext.target import KERNEL_FORM, GraphForm, has_cpu_kernel

logger = logging.getLogger(__name__)

KERNELS = {
    MATMUL_KERNEL: LINEAR_TYPES,
    CONVOLUTION_KERNEL: (CONVOLUTION, VOLUME, *TRANSPOSED_TYPES),
    DEPTHWISE_KERNEL: (DEPTHWISE,),
}
"""Operator types that an integer operator replaces, by integer operator."""
LEAST_DB = 30.0
"""Least signal-to-noise ratio of a correct kernel. Rounding leaves 40 dB and more on the trial data, saturation at most
15 dB, and halving of odd weights about 0 dB."""

_TYPES = {
    Primitive.MATMUL: ("MatMul", (64, 16)),
    Primitive.CONVOLUTION: (CONVOLUTION, (3, 3, 16, 16)),
    Primitive.GROUPED: (DEPTHWISE, (3, 3, 16, 2)),
    Primitive.DEPTHWISE: (DEPTHWISE, (3, 3, 16, 1)),
}
"""Operator type and weight shape of the trial, by primitive."""

_ONE = (("", "y", "x"),)

_NODES = {
    Route(Primitive.CONVOLUTION, signed=False): (
        ("", "first", "x"),
        ("Relu", "kept", "first"),
        ("", "second", "kept"),
        ("Relu", "read", "second"),
        ("", "third", "read"),
        ("AddV2", "sum", "third", "kept"),
        ("Relu", "block", "sum"),
        ("", "y", "block"),
    ),
    Route(Primitive.CONVOLUTION, signed=True): (("", "first", "x"), ("", "y", "first")),
}
"""Nodes of the trial model by route: type, name and inputs. An empty type stands for the operator of the route, which
also reads the weight. Convolutions are tried in every form that is emitted: between integers, with a sum, and to
float32. For other routes one operator is enough."""

_HALVED = tuple(route for route in ROUTES if route.signed and route.primitive is not Primitive.MATMUL)
"""Routes on which oneDNN may halve weights; weights of 7 bits are doubled there."""

_WEIGHT = TensorConfig("int8", "sym", "per_channel", "minmax")
_ASYMMETRIC = OpConfig(_WEIGHT, TensorConfig("uint8", "asym", "per_tensor", "minmax"), "static")
_SYMMETRIC = OpConfig(_WEIGHT, TensorConfig("int8", "sym", "per_tensor", "minmax"), "static")


@dataclass(frozen=True)
class KernelSupport:
    """Which integer kernels work on this machine, and with how many bits of the weight.

    Args:
        missing: integer operators that do not exist here, or return wrong results.
        saturating: routes on which sums of two products with weights of 8 bits saturate in 16 bits.
        halving: routes on which the kernel itself halves weights of 8 bits, so that odd ones are rounded once more.
    """

    missing: tuple[str, ...] = ()
    saturating: frozenset[Route] = frozenset()
    halving: frozenset[Route] = frozenset()

    @property
    def reduced(self) -> frozenset[Route]:
        """Routes on which weights have 7 bits; if the kernel halves weights they are stored doubled."""
        return self.saturating | self.halving

    def runs(self, operator: Operator) -> bool:
        """Whether an operator has an integer kernel that works."""
        if operator.groups > 1 and GROUPED_KERNEL in self.missing:
            return False
        return any(operator.type in types for kernel, types in KERNELS.items() if kernel not in self.missing)


@cache
def kernel_support() -> KernelSupport:
    """Look up every kernel and try it out on every route, once per process."""
    missing: set[str] = set()
    saturating: set[Route] = set()
    halving: set[Route] = set()
    for route in ROUTES:
        kernel = _kernel(route)
        if not has_cpu_kernel(kernel):
            missing.add(kernel)
        elif not _is_right(route, _large_values, reduce_range=False):
            if _is_right(route, _large_values, reduce_range=True):
                saturating.add(route)
            else:
                missing.add(kernel)
        elif route in _HALVED and not _is_right(route, _odd_weights, reduce_range=False):
            halving.add(route)
    if CONVOLUTION_KERNEL not in missing and not _computes_groups():
        missing.add(GROUPED_KERNEL)
    found = tuple(kernel for kernel in (*KERNELS, GROUPED_KERNEL) if kernel in missing)
    return KernelSupport(found, frozenset(saturating), frozenset(halving))


def is_simulated(operator: Operator, config: OpConfig, form: GraphForm) -> bool:
    """Whether an operator is computed in float32, with the values that integers would have.

    Args:
        operator: of any type.
        config: how the operator is quantized.
        form: of the graph; the kernels of this machine matter for `KERNEL_FORM` only.
    """
    if operator.type == LOOKUP:
        return (config.weight.dtype, config.weight.scheme) != ("int8", "sym")
    return not has_kernel(operator.type, config, form) or (form == KERNEL_FORM and not kernel_support().runs(operator))


def has_kernel(op_type: str, config: OpConfig, form: GraphForm = KERNEL_FORM) -> bool:
    """Whether there is an integer kernel for a configuration: int8 weights, 8-bit activations."""
    weight, activation = config.weight, config.activation
    if (weight.dtype, weight.scheme) != ("int8", "sym"):
        return False
    if config.approach == "dynamic":
        is_written = op_type in LINEAR_TYPES and form == KERNEL_FORM
        return is_written and activation.dtype == "uint8"
    # The integers of a convolution have a sign or a zero point as their values want it, whatever the type is called.
    allowed = [("int8", "sym"), ("uint8", "sym"), ("uint8", "asym")]
    if op_type not in LINEAR_TYPES:
        allowed.append(("int8", "asym"))
    return config.approach == "static" and (activation.dtype, activation.scheme) in allowed


def _computes_groups() -> bool:
    """Whether convolutions with groups work, with unsigned and with signed integers."""
    generator = np.random.default_rng(0)
    weight = np.asarray(generator.normal(size=(3, 3, 4, 16)), np.float32)
    x = np.asarray(generator.normal(size=(2, 6, 6, 16)), np.float32)
    routes = (Route(Primitive.CONVOLUTION, signed) for signed in (False, True))
    return all(_works(route, _ONE, x if route.signed else np.abs(x), weight, reduce_range=True) for route in routes)


def _kernel(route: Route) -> str:
    return next(kernel for kernel, types in KERNELS.items() if _TYPES[route.primitive][0] in types)


def _is_right(route: Route, make: Callable[[Route], tuple[FloatArray, FloatArray]], *, reduce_range: bool) -> bool:
    """Whether the integer operators of a route return the float32 results up to rounding, on data that `make` makes."""
    x, weight = make(route)
    nodes = _NODES.get(route, _ONE) if make is _large_values else _ONE
    return _works(route, nodes, x, weight, reduce_range=reduce_range)


def _works(
    route: Route, nodes: Iterable[tuple[str, ...]], x: FloatArray, weight: FloatArray, *, reduce_range: bool
) -> bool:
    """Whether the integer form of a small model returns the float32 results up to rounding."""
    try:
        return _signal_to_noise(route, nodes, x, weight, reduce_range=reduce_range) >= LEAST_DB
    except tf.errors.OpError:
        logger.debug("the integer kernel failed in %s", route, exc_info=True)
        return False


def _large_values(route: Route) -> tuple[FloatArray, FloatArray]:
    """Large inputs and weights, so that sums of two products exceed 16 bits with 8-bit weights.

    If the route is signed, one channel is negative.
    """
    generator = np.random.default_rng(0)
    _, weight_shape = _TYPES[route.primitive]
    weight = np.asarray(0.05 + 0.005 * generator.uniform(-1, 1, weight_shape), np.float32)
    x = np.asarray(3 + 0.5 * generator.uniform(-1, 1, _input_shape(weight_shape)), np.float32)
    if route.signed:
        x[..., 0] *= -0.2
        weight[..., 0] *= -0.2 if weight_shape[-1] > 1 else 1
    return x, weight


def _odd_weights(route: Route) -> tuple[FloatArray, FloatArray]:
    """Images and filters whose products only contain odd weights, which a kernel that halves weights rounds.

    As 8-bit integers all filter values are 1, but for the value at the last position, which is 127 and sets the scale.
    The images are zero but for one corner, which the last filter position never meets.
    """
    _, weight_shape = _TYPES[route.primitive]
    shape = _input_shape(weight_shape)
    weight, x = np.ones(weight_shape, np.float32), np.zeros(shape, np.float32)
    weight[2, 2] = 127
    x[:, 0, 0] = np.linspace(-1, 2, shape[-1])
    return x, weight


def _input_shape(weight_shape: Sequence[int]) -> tuple[int, ...]:
    return (32, weight_shape[0]) if len(weight_shape) == 2 else (2, 6, 6, weight_shape[2])


def _signal_to_noise(
    route: Route, nodes: Iterable[tuple[str, ...]], x: FloatArray, weight: FloatArray, *, reduce_range: bool
) -> float:
    """Signal-to-noise ratio, in decibels, of the integer form of a small model against float32."""
    signature = _small_model(route, nodes, x, weight)
    return signal_to_noise_db(
        _output(signature, x), _output(_in_integers(signature, x, route, reduce_range=reduce_range), x)
    )


def _in_integers(signature: SignatureGraph, x: FloatArray, route: Route, *, reduce_range: bool) -> SignatureGraph:
    graph = Graph(signature)
    operators = find_operators(graph).found
    read = sorted({tensor for operator in operators.values() for tensor in (operator.input, operator.output)})
    values = run_inside(signature, read, Feed({"x": x}, len(x), frozenset()))
    limits = {tensor: (float(value.min()), float(value.max())) for tensor, value in values.items()}
    asymmetric = route.primitive is Primitive.MATMUL and not route.signed
    plan = QuantizationPlan(
        dict.fromkeys(operators, _ASYMMETRIC if asymmetric else _SYMMETRIC),
        {
            name: OperatorCalibration(
                limits[operator.input],
                None,
                limits[operator.output] if operator.type == DEPTHWISE else None,
                reduce_range,
            )
            for name, operator in operators.items()
        },
    )
    return build_signature(graph, operators, plan, WeightCache())


def _output(signature: SignatureGraph, x: FloatArray) -> Array:
    result: Array = SignatureModel(GraphModel({signature.name: signature}))(x).numpy()
    return result


def _small_model(route: Route, nodes: Iterable[tuple[str, ...]], x: FloatArray, weight: FloatArray) -> SignatureGraph:
    """A signature with the operators of one route, which share a float32 weight."""
    graph_def = GraphDef()
    placeholder(graph_def, "x", tf.float32, x.shape)
    placeholder(graph_def, "weight", tf.float32, weight.shape)
    op_type, _ = _TYPES[route.primitive]
    for op, name, *inputs in nodes:
        node = graph_def.node.add(op=op or op_type, name=name, input=inputs if op else [*inputs, "weight"])
        node.attr["T"].type = tf.float32.as_datatype_enum
        if node.op in (CONVOLUTION, DEPTHWISE):
            node.attr["strides"].list.i.extend([1, 1, 1, 1])
            node.attr["padding"].s = b"SAME"
    description = TensorDescription("x", tf.float32, x.shape, "x:0")
    output = replace(description, name="y", shape=None, tensor="y:0")
    return SignatureGraph("one", graph_def, {"weight": weight}, (description,), (output,), True, {})
