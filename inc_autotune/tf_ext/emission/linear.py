"""Writes matrix products with int8 weights, with their bias and activation function, as one operator."""

from __future__ import annotations

import tensorflow as tf

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.tf_ext.emission.activation_grid import Range, grid_of
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.operators import Operator


def emit_linear(
    emission: Emission,
    operator: Operator,
    source: str,
    config: OpConfig,
    limits: Range,
    factor: FloatArray | None = None,
    divisor: FloatArray | None = None,
) -> None:
    """Write a linear operator as `_QuantizedMatMul`, which returns float32.

    Args:
        emission: the graph under construction.
        operator: MatMul or BatchMatMul.
        source: the float tensor to be multiplied: the operator's input, or its smoothed form.
        config: int8, static.
        limits: smallest and largest value of `source`.
        factor: smoothing scale [inputs] that the weight is multiplied by; None: 1.
        divisor: smoothing scale [features] of a later operator, by which the result is divided; None: 1.
    """
    name = operator.name
    weight = emission.weight(operator, config, factor)
    matrix = emission.quantized(source, grid_of(config.activation, limits), limits)
    left = operator.input_of_product
    if source != left or operator.node.op != "MatMul":
        matrix = emission.integer_matrix(matrix, weight.values.shape[0], name)
    if operator.epilogue.shape is not None:
        shape: str | None = operator.epilogue.shape
    elif operator.node.op != "MatMul":
        shape = emission.shape_like(left, operator.features, name)
    else:
        shape = None
    emit_product(emission, operator, matrix, weight, shape, divisor)


def emit_product(
    emission: Emission,
    operator: Operator,
    matrix: QuantizedTensor,
    weight: QuantizedWeight,
    shape: str | None,
    divisor: FloatArray | None = None,
) -> None:
    """Write the product of an integer matrix and a weight, with bias and activation function.

    Args:
        emission: the graph under construction.
        operator: its output, bias and activation function are used.
        matrix: [rows, inputs].
        weight: int8 [inputs, features].
        shape: tensor with the shape of the output; None: [rows, features].
        divisor: what the result is divided by, [features]; None: 1.
    """
    name, function = operator.name, operator.epilogue.function
    values, minimum, maximum = emission.weight_parts(name, weight, divisor)
    inputs = [matrix.values, values, emission.bias(name, operator, divisor), matrix.minimum, matrix.maximum]
    product = operator.output if shape is None else emission.builder.new(f"{name}/product")
    emission.builder.make(
        "_QuantizedMatMul",
        [*inputs, minimum, maximum],
        product,
        T1=matrix.grid.dtype,
        T2=tf.qint8,
        Tbias=tf.float32,
        U=tf.float32,
        Tout=tf.float32,
        transpose_a=False,
        transpose_b=False,
        # The weight is a variable, but never written: the kernel packs it once.
        is_weight_const=True,
        is_bias_const=True,
        input_quant_mode=matrix.grid.mode,
        output_quant_mode="SCALED",
        leakyrelu_alpha=0.2 if function is None else function.alpha,
        fused_ops=["BiasAdd", *([] if function is None else [function.kind]), "Dequantize"],
        Tdevice_inputs=[matrix.grid.dtype, tf.qint8, tf.float32],
        Thost_inputs=[tf.float32] * 4,
        Tdevice_outputs=[tf.float32],
        Thost_outputs=[],
    )
    if shape is not None:
        emission.builder.make("Reshape", [product, shape], operator.output, T=tf.float32, Tshape=tf.int32)
