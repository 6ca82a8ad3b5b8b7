"""Products with a stack of matrices, and with a matrix that is the first operand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import OperatorCalibration, QuantizedWeight, quantize_weight
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.emission.context import Emission, QuantizedNames
from inc_autotune.ort_ext.emission.linear import emit_linear
from inc_autotune.ort_ext.graph import CONTRIB_DOMAIN
from inc_autotune.ort_ext.operators import Operator


def emit_left(emission: Emission, operator: Operator, config: OpConfig, calibration: OperatorCalibration) -> None:
    """Write `weight @ input` as the transposition of `input.T @ weight.T`, since kernels take weights second.

    Args:
        emission: the model under construction.
        operator: a MatMul whose weight [out_features, in_features] is the first operand.
        config: how.
        calibration: the range of the input.
    """
    builder, rank = emission.builder, emission.graph.rank(operator.input)
    assert rank is not None
    perm = [*range(rank - 2), rank - 1, rank - 2]
    turned = builder.compute("Transpose", [operator.input], f"{operator.name}.input.swapped", perm=perm)
    product = builder.new(f"{operator.name}.product.swapped")
    emit_linear(emission, replace(operator, output=product, layout="right"), turned, config, calibration, None)
    builder.produce("Transpose", [product], [operator.output], builder.new_node(f"{product}.Transpose"), perm=perm)


def emit_stack(emission: Emission, operator: Operator, config: OpConfig, calibration: OperatorCalibration) -> None:
    """Write a product with a weight [..., in_features, out_features], with a scale for each column of each matrix.

    Args:
        emission: the model under construction.
        operator: a MatMul with such a weight.
        config: static or dynamic.
        calibration: the range of the input; None where it is quantized dynamically.
    """
    builder, name = emission.builder, operator.name
    if config.approach == "dynamic":
        x = emission.dynamically_quantized(operator.input)
    else:
        assert calibration.range is not None
        x = emission.quantized(operator.input, config.activation, calibration.range)
    weight = _quantized(emission, operator, config)
    if emission.form.contrib_operators:
        inputs = [x.values, weight.values, x.scale, weight.scale, x.zero_point, weight.zero_point]
        builder.produce("MatMulIntegerToFloat", inputs, [operator.output], name, CONTRIB_DOMAIN)
        return
    inputs = [x.values, weight.values, x.zero_point, weight.zero_point]
    integers = builder.compute("MatMulInteger", inputs, f"{name}.integers", name)
    as_float = builder.compute("Cast", [integers], f"{name}.float", to=onnx.TensorProto.FLOAT)
    scale = builder.compute("Mul", [x.scale, weight.scale], f"{name}.scale")
    builder.produce("Mul", [as_float, scale], [operator.output], builder.new_node(f"{name}.Mul"))


def _quantized(emission: Emission, operator: Operator, config: OpConfig) -> QuantizedNames:
    reduce_range = emission.plan.calibration(operator.name).reduce_range

    def make() -> QuantizedWeight:
        columns = np.swapaxes(emission.graph.constant(operator.weight), -1, -2)
        rows = columns.reshape(-1, columns.shape[-1])
        weight = quantize_weight(rows, config.weight, axis=0, framework=FRAMEWORK, reduce_range=reduce_range)
        values = np.ascontiguousarray(np.swapaxes(weight.values.reshape(columns.shape), -1, -2))
        if not weight.scale.ndim:
            return replace(weight, values=values)
        shape = (*columns.shape[:-2], 1, columns.shape[-2])
        return QuantizedWeight(values, weight.scale.reshape(shape), weight.zero_point.reshape(shape))

    version = ("stack", config.weight, reduce_range, emission.graph.origin(operator.weight))
    return emission.weight(operator.weight, version, emission.weights.get(operator.name, version, make))
