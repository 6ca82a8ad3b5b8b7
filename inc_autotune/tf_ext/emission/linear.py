"""Writes matrix products with int8 weights, with their bias and activation function, as one operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.tf_ext.emission.activation_grid import Range, grid_of
from inc_autotune.tf_ext.emission.context import Emission, QuantizedTensor
from inc_autotune.tf_ext.emission.rows import quantized_rows
from inc_autotune.tf_ext.operators import ActivationFunction, Operator


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
    emit_product(emission, operator, matrix, weight, emission.output_shape(operator), divisor)


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
    product = operator.output if shape is None else emission.builder.new(f"{name}/product")
    bias = emission.bias(name, operator, divisor)
    _make_product(emission, name, matrix, emission.weight_parts(name, weight, divisor), bias, product, function)
    if shape is not None:
        emission.builder.make("Reshape", [product, shape], operator.output, T=tf.float32, Tshape=tf.int32)


def emit_dynamic(
    emission: Emission,
    operator: Operator,
    source: str,
    config: OpConfig,
    factor: FloatArray | None = None,
    divisor: FloatArray | None = None,
) -> None:
    """Write a linear operator as `_QuantizedMatMul` between operators that find the range of each row.

    A row `x` of the input is `low + size * q / 255` with integers `q`, so `x @ w = size * (q / 255 @ w) + low * sums`
    with the sums of the integer weight. The kernel takes one range for all rows, thus cannot add a bias nor compute an
    activation function.

    Args:
        emission: the graph under construction.
        operator: MatMul or BatchMatMul without activation function, see `Operator.without_function`.
        source: the float tensor to be multiplied: the operator's input, or its smoothed form.
        config: int8, dynamic.
        factor: smoothing scale [inputs] that the weight is multiplied by; None: 1.
        divisor: smoothing scale [features] of a later operator, by which the result is divided; None: 1.
    """
    name, left = operator.name, operator.input_of_product
    weight = emission.weight(operator, config, factor)
    is_matrix = source == left and operator.node.op == "MatMul"
    columns = None if is_matrix else weight.values.shape[0]
    rows = quantized_rows(emission, source, columns, config.activation.scheme)
    product = emission.builder.new(f"{name}/product")
    nothing = emission.constant(f"{name}/no_bias", np.zeros(operator.features, np.float32))
    _make_product(emission, name, rows.values, emission.weight_parts(name, weight, divisor), nothing, product)

    def make(op: str, inputs: Sequence[str], made: str | None = None) -> str:
        return emission.builder.make(op, inputs, made or emission.builder.new(f"{name}/{op}"), T=tf.float32)

    shape = emission.output_shape(operator)
    result = operator.output if shape is None else emission.builder.new(f"{name}/total")
    added = []
    if rows.low is not None:
        sums = weight.values.sum(axis=0, keepdims=True, dtype=np.int64) * weight.scale
        sums = np.asarray(sums if divisor is None else sums / divisor, np.float32)
        added.append(make("Mul", [rows.low, emission.constant(f"{name}/sums", sums)]))
    if operator.epilogue.bias is not None:
        added.append(emission.bias(name, operator, divisor))
    total = make("Mul", [product, rows.size], None if added else result)
    for index, each in enumerate(added, 1):
        total = make("AddV2", [total, each], result if index == len(added) else None)
    if shape is not None:
        emission.builder.make("Reshape", [result, shape], operator.output, T=tf.float32, Tshape=tf.int32)


def _make_product(
    emission: Emission,
    name: str,
    matrix: QuantizedTensor,
    weight: tuple[str, str, str],
    bias: str,
    product: str,
    function: ActivationFunction | None = None,
) -> None:
    """Add the kernel, under the name `product`, of an integer matrix and a weight of three tensors."""
    values, minimum, maximum = weight
    emission.builder.make(
        "_QuantizedMatMul",
        [matrix.values, values, bias, matrix.minimum, matrix.maximum, minimum, maximum],
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
