"""MatMul and Gemm with a constant weight: static, dynamic, weight-only, and smoothed fp32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import OperatorCalibration, QuantizedWeight, content
from inc_autotune.ort_ext.emission.context import Emission, QuantizedNames, QuantizedTensor
from inc_autotune.ort_ext.emission.gemm import emit_gemm
from inc_autotune.ort_ext.emission.smoothed_weight import SmoothedWeight
from inc_autotune.ort_ext.emission.weights import block_size, quantize_blocks, stored_bits
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN
from inc_autotune.ort_ext.operators import Operator, weight_matrix

INT8_ACTIVATIONS = 4
"""Accuracy level of MatMulNBits at which it quantizes its activation by itself, row by row, and multiplies integers."""


def emit_linear(
    emission: Emission,
    operator: Operator,
    tensor: str,
    config: OpConfig | None,
    calibration: OperatorCalibration,
    divisor: FloatArray | None,
) -> None:
    """Write a linear operator with its bias.

    Args:
        emission: the model under construction.
        operator: a MatMul or Gemm.
        tensor: the operator's input, smoothed already.
        config: None: the operator stays in fp32.
        calibration: the range of `tensor`, and the smoothing scale that the weight is multiplied by.
        divisor: smoothing scale [out_features] of a later operator, by which the output is divided; None: 1.
    """
    source = SmoothedWeight(emission, operator, calibration.smoothing, divisor)
    if operator.type == "Gemm" and not emission.form.gemm_to_matmul and (config is None or config.approach == "static"):
        emit_gemm(emission, operator, tensor, source, config, calibration.range)
        return
    if config is None:
        matrix = source.float_matrix(transposed=True)
        _emit_matmul(emission, operator, tensor, matrix, source.bias())
    elif config.approach == "weight_only":
        _emit_weight_only(emission, operator, tensor, config, source, source.bias())
    elif config.approach == "dynamic":
        _emit_dynamic(emission, operator, tensor, *_quantized(emission, source, config))
    else:
        assert calibration.range is not None
        x = emission.quantized(tensor, config.activation, calibration.range)
        names, bias = _quantized(emission, source, config)
        if emission.form.contrib_operators:
            _emit_fused(emission, operator, x, names, bias)
        else:
            matrix = emission.builder.compute("DequantizeLinear", names.parts, f"{operator.name}.weight", axis=1)
            _emit_matmul(emission, operator, emission.dequantized(tensor, x), matrix, bias)


def _quantized(emission: Emission, source: SmoothedWeight, config: OpConfig) -> tuple[QuantizedNames, str | None]:
    """The weight in the layout of MatMul, [in_features, out_features], and the name of the bias for it."""
    operator = source.operator
    rounding = emission.rounding(operator.name)

    def make() -> QuantizedWeight:
        weight = rounding.quantized(source.matrix(), config.weight)
        return replace(weight, values=np.ascontiguousarray(weight.values.T))

    version = ("columns", config.weight, rounding.version, source.version)
    weight = emission.weights.get(operator.name, version, make)
    bias = source.bias(replace(weight, values=weight.values.T))
    return emission.weight(operator.weight, version, weight), bias


def _emit_dynamic(
    emission: Emission, operator: Operator, tensor: str, weight: QuantizedNames, bias: str | None
) -> None:
    x = emission.dynamically_quantized(tensor)
    if emission.form.contrib_operators:
        _emit_fused(emission, operator, x, weight, bias)
        return
    name, builder = operator.name, emission.builder
    inputs = [x.values, weight.values, x.zero_point, weight.zero_point]
    product = builder.compute("MatMulInteger", inputs, f"{name}.integers", name)
    as_float = builder.compute("Cast", [product], f"{name}.float", to=onnx.TensorProto.FLOAT)
    scale = builder.compute("Mul", [x.scale, weight.scale], f"{name}.scale")
    if bias is None:
        builder.produce("Mul", [as_float, scale], [operator.output], builder.new_node(f"{name}.Mul"))
    else:
        _emit_bias(emission, operator, builder.compute("Mul", [as_float, scale], f"{name}.product"), bias)


def _emit_fused(
    emission: Emission, operator: Operator, x: QuantizedTensor, weight: QuantizedNames, bias: str | None
) -> None:
    inputs = [x.values, weight.values, x.scale, weight.scale, x.zero_point, weight.zero_point]
    inputs += [] if bias is None else [bias]
    emission.builder.produce("MatMulIntegerToFloat", inputs, [operator.output], operator.name, CONTRIB_DOMAIN)


def _emit_matmul(emission: Emission, operator: Operator, tensor: str, matrix: str, bias: str | None) -> None:
    builder = emission.builder
    if bias is None:
        builder.produce("MatMul", [tensor, matrix], [operator.output], operator.name)
    else:
        product = builder.compute("MatMul", [tensor, matrix], f"{operator.name}.product", operator.name)
        _emit_bias(emission, operator, product, bias)


def _emit_bias(emission: Emission, operator: Operator, product: str, bias: str) -> None:
    """Add the bias, to a product of two matrices as a Sum.

    Before onnxruntime looks for integer kernels it fuses the MatMul and Add of matrices, and an activation behind them,
    into a Gemm that has no integer kernel.
    """
    is_matrix = emission.form.cpu_fusions and (operator.type == "Gemm" or emission.graph.rank(operator.input) == 2)
    name = operator.bias_node or emission.builder.new_node(f"{operator.name}.bias")
    emission.builder.produce("Sum" if is_matrix else "Add", [product, bias], [operator.output], name)


def _emit_weight_only(
    emission: Emission, operator: Operator, tensor: str, config: OpConfig, source: SmoothedWeight, bias: str | None
) -> None:
    bits, steps = stored_bits(config.weight), emission.plan.calibration(operator.name).steps
    outputs, inputs = weight_matrix(operator, emission.graph.constant(operator.weight)).shape
    block = block_size(inputs, config.weight)
    version = ("blocks", config.weight, content(steps), source.version)
    weight = emission.weights.get(
        operator.name, version, lambda: quantize_blocks(source.matrix(), config.weight, bits, block, steps)
    )
    names = emission.weight(operator.weight, version, weight)
    emission.builder.produce(
        "MatMulNBits",
        [tensor, names.values, names.scale, *(["", "", bias] if bias else [])],
        [operator.output],
        operator.name,
        CONTRIB_DOMAIN,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=block,
        accuracy_level=INT8_ACTIVATIONS,
    )
