"""Writes operators that keep their own kernels: with other weights, rounded values, or in bfloat16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import AnyNamespaceArray, FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight, Steps, content, quantize_weight
from inc_autotune.tf_ext.calibration import FRAMEWORK
from inc_autotune.tf_ext.emission.activation_grid import LARGEST_INT8, Range, grid_of
from inc_autotune.tf_ext.emission.context import Emission
from inc_autotune.tf_ext.emission.rows import rounded_rows
from inc_autotune.tf_ext.graph import reshape
from inc_autotune.tf_ext.operators import DEPTHWISE, LOOKUP, TRANSPOSED_TYPES, Operator


def emit_simulated(
    emission: Emission,
    operator: Operator,
    source: str,
    config: OpConfig,
    limits: Range | None,
    factor: FloatArray | None = None,
) -> None:
    """Write the product alone, computed in float32 with the values that integers of the types would have.

    Args:
        emission: the graph under construction.
        operator: of any type.
        source: the float tensor it reads.
        config: any types; what is float is not rounded.
        limits: smallest and largest value of `source`; None: found whenever the model runs.
        factor: smoothing scale that the weight's inputs are multiplied by.
    """
    name = operator.name
    activation = config.activation
    if activation.is_float:
        rounded = source
    elif limits is None and operator.is_linear:
        rounded = rounded_rows(emission, source, activation, name)
    else:
        rounded = emission.fake_quantized(source, activation, limits, name)
    if config.weight.is_float:
        weight = _float_weight(emission, operator, factor)
        _product(emission, operator, _shaped(emission, operator, rounded), weight)
        return
    calibration = emission.plan.calibration(name)
    made = rounded_weight(
        emission, operator, config, factor, reduce_range=calibration.reduce_range, steps=calibration.steps
    )
    _product(emission, operator, _shaped(emission, operator, rounded), _dequantized(emission, operator, made))


def emit_qdq(
    emission: Emission,
    operator: Operator,
    source: str,
    config: OpConfig,
    limits: Range,
    factor: FloatArray | None = None,
) -> None:
    """Write the product alone, between integers and back: what a runtime turns into an integer operator by itself.

    The weight is stored in float32, with the values that its integers have, and goes through a QuantizeV2 of its own,
    whose bounds are no variables: Intel Extension for TensorFlow 2.15 takes neither stored integers nor others.

    Args:
        emission: the graph under construction.
        operator: of any type.
        source: the float tensor it reads.
        config: int8, static.
        limits: smallest and largest value of `source`.
        factor: smoothing scale that the weight's inputs are multiplied by.
    """
    name, builder = operator.name, emission.builder
    # Nothing may stand between the Dequantize and the product.
    source = operator.input_of_product if source == operator.input else _shaped(emission, operator, source)
    rounded = emission.dequantized(emission.quantized(source, grid_of(config.activation, limits), limits))
    steps = emission.plan.calibration(name).steps
    made = rounded_weight(emission, operator, config, factor, reduce_range=False, features_last=True, steps=steps)
    largest = np.asarray(made.scale * np.float32(LARGEST_INT8), np.float32)
    bounds = [
        builder.inline(f"{name}/weight/{end}", value) for end, value in (("minimum", -largest), ("maximum", largest))
    ]
    axis = _axis(operator, made.values.ndim)
    changes = ("stored", config.weight, content(factor), content(steps))
    stored = emission.kept(operator, changes, lambda: made.floats(axis))
    form = {"mode": "SCALED", "narrow_range": True, "axis": axis if largest.ndim else -1}
    integers = builder.compute(
        "QuantizeV2",
        [builder.constant(f"{name}/weight", stored), *bounds],
        f"{name}/weight/quantized",
        T=tf.qint8,
        round_mode="HALF_TO_EVEN",
        ensure_minimum_range=0.0,
        **form,
    )
    floats = builder.compute(
        "Dequantize", [integers, *bounds], f"{name}/weight/dequantized", T=tf.qint8, dtype=tf.float32, **form
    )
    if operator.type == DEPTHWISE:
        whole = emission.constant(f"{name}/shape", np.array(_shape(emission, operator), np.int32))
        floats = reshape(builder, floats, whole, f"{name}/shaped")
    _product(emission, operator, rounded, floats)


def emit_smoothed(emission: Emission, operator: Operator, source: str, factor: FloatArray) -> None:
    """Write a linear operator in float32 with a smoothed input and a weight multiplied by the smoothing scale."""
    _product(emission, operator, _shaped(emission, operator, source), _float_weight(emission, operator, factor))


def emit_bfloat16(emission: Emission, operator: Operator) -> None:
    """Write the product alone, computed in bfloat16."""
    name, builder = operator.name, emission.builder
    weight = emission.kept(
        operator, "bfloat16", lambda: np.asarray(_raw_weight(emission, operator, None), tf.bfloat16.as_numpy_dtype)
    )
    halves = builder.compute(
        "Cast", [operator.input_of_product], f"{name}/half", SrcT=tf.float32, DstT=tf.bfloat16, Truncate=False
    )
    node = _changed(operator.node, builder.new(f"{name}/product"))
    node.input[:] = [halves, builder.constant(f"{name}/weight", weight)]
    for key in ("T", "Ta", "Tb", "Tout"):
        if key in node.attr:
            node.attr[key].type = tf.bfloat16.as_datatype_enum
    builder.keep(node)
    builder.make("Cast", [node.name], operator.node.name, SrcT=tf.bfloat16, DstT=tf.float32, Truncate=False)


def _raw_weight(emission: Emission, operator: Operator, factor: FloatArray | None) -> FloatArray:
    """The weight in the layout of the operator's own kernel, without the epilogue's multiplier."""
    weight: FloatArray | None = emission.graph.constant(operator.weight)
    assert weight is not None
    if factor is None:
        return weight
    return np.asarray(weight * (factor if operator.transposed else factor[:, None]), np.float32)


def _float_weight(emission: Emission, operator: Operator, factor: FloatArray | None) -> str:
    """The tensor with the float weight."""
    weight = emission.kept(operator, ("float", content(factor)), lambda: _raw_weight(emission, operator, factor))
    return emission.builder.constant(f"{operator.name}/weight", weight)


def rounded_weight(
    emission: Emission,
    operator: Operator,
    config: OpConfig,
    factor: FloatArray | None,
    *,
    reduce_range: bool,
    features_last: bool = False,
    steps: Steps | None = None,
) -> QuantizedWeight:
    """The weight in integers, in the layout of the operator's own kernel; a table has a scale for each row.

    With `features_last` the last axis of a depthwise weight is that of its features: [height, width, features]. `steps`
    are how far the integers are from the nearest ones.
    """

    def make() -> QuantizedWeight:
        weight = _raw_weight(emission, operator, factor)
        shape = weight.shape
        if operator.type == DEPTHWISE:
            weight = weight.reshape(*shape[:2], operator.features)
        axis = _axis(operator, weight.ndim)
        made = quantize_weight(
            weight, config.weight, axis=axis, framework=FRAMEWORK, reduce_range=reduce_range, steps=steps
        )
        return made if features_last else replace(made, values=made.values.reshape(shape))

    changes = ("rounded", config.weight, content(factor), reduce_range, features_last, content(steps))
    return emission.kept(operator, changes, make)


def _axis(operator: Operator, rank: int) -> int:
    """Of the features in a weight of `rank` dimensions."""
    if operator.type in TRANSPOSED_TYPES:
        return rank - 2
    return 0 if operator.transposed or operator.type == LOOKUP else rank - 1


def _shape(emission: Emission, operator: Operator) -> tuple[int, ...]:
    """Of the weight in the layout of the operator's own kernel."""
    return _raw_weight(emission, operator, None).shape


def _dequantized(emission: Emission, operator: Operator, weight: QuantizedWeight) -> str:
    """A float32 tensor made of int8 values when the model runs, so that the model is as small as with a kernel."""
    name, builder, shape = operator.name, emission.builder, weight.values.shape
    axis = 2 if operator.type == DEPTHWISE else _axis(operator, len(shape))
    raw = builder.constant(f"{name}/weight", weight.values)
    tensor = builder.compute(
        "Cast", [raw], f"{name}/weight/float", SrcT=tf.as_dtype(weight.values.dtype), DstT=tf.float32, Truncate=False
    )
    if weight.zero_point.any():
        zeros = _along(weight.zero_point.astype(np.float32), axis, shape)
        tensor = builder.compute(
            "Sub",
            [tensor, emission.constant(f"{name}/weight/zero_point", zeros)],
            f"{name}/weight/shifted",
            T=tf.float32,
        )
    scale = emission.constant(f"{name}/weight/scale", _along(weight.scale, axis, shape))
    return builder.compute("Mul", [tensor, scale], f"{name}/weight/dequantized", T=tf.float32)


def _along(vector: AnyNamespaceArray, axis: int, shape: tuple[int, ...]) -> AnyNamespaceArray:
    """A number, or one for each feature, in a shape that is broadcast to that of the weight."""
    if vector.ndim == 0:
        return vector
    # The features of a depthwise convolution take two dimensions.
    trailing = shape[axis:] if vector.size != shape[axis] else (shape[axis], *([1] * (len(shape) - axis - 1)))
    return np.ascontiguousarray(vector.reshape(trailing))


def _shaped(emission: Emission, operator: Operator, source: str) -> str:
    """What stands for the operator's input, in the shape that its product reads, which may be another one."""
    left = operator.input_of_product
    if source == left or not operator.is_linear or operator.input == left:
        return source
    shape = emission.builder.compute("Shape", [left], f"{operator.name}/shape", T=tf.float32, out_type=tf.int32)
    return reshape(emission.builder, source, shape, f"{operator.name}/reshaped")


def _product(emission: Emission, operator: Operator, source: str, weight: str) -> None:
    """Write the operator's own node with another input, of the shape it reads, and another weight."""
    node = _changed(operator.node, operator.node.name)
    node.input[operator.position] = source
    node.input[operator.weight_position] = weight
    emission.builder.keep(node)


def _changed(node: NodeDef, name: str) -> NodeDef:
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.name = name
    return copy
