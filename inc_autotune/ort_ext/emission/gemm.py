"""Writes a Gemm as one Gemm, with its bias."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.integer_bias import emit_bias, with_room_for_bias
from inc_autotune.ort_ext.emission.smoothed_weight import SmoothedWeight
from inc_autotune.ort_ext.operators import Operator


def emit_gemm(
    emission: Emission,
    operator: Operator,
    tensor: str,
    source: SmoothedWeight,
    config: OpConfig | None,
    limits: tuple[float, float] | None,
) -> None:
    """Write a Gemm with a weight [out_features, in_features].

    Args:
        emission: the model under construction.
        operator: a Gemm.
        tensor: the operator's input, smoothed already.
        source: the operator's weight and bias.
        config: static; None: the operator stays in fp32.
        limits: smallest and largest value of `tensor`; None in fp32.
    """
    if config is None:
        matrix = source.float_matrix(transposed=False)
        operands = [tensor, matrix, source.bias()]
    else:
        assert limits is not None
        operands = _integer_operands(emission, tensor, source, config, limits)
    given = [operand for operand in operands if operand is not None]
    emission.builder.produce("Gemm", given, [operator.output], operator.name, transB=1)


def _integer_operands(
    emission: Emission, tensor: str, source: SmoothedWeight, config: OpConfig, limits: tuple[float, float]
) -> list[str | None]:
    """Names of the dequantized input, of the dequantized weight, and of the bias (None without bias)."""
    name = source.operator.name
    x = emission.quantized(tensor, config.activation, limits)
    rounding = emission.rounding(name)

    def make() -> QuantizedWeight:
        return rounding.quantized(np.ascontiguousarray(source.matrix()), config.weight)

    version: tuple[Hashable, ...] = ("rows", config.weight, rounding.version, source.version)
    quantized = emission.weights.get(name, version, make)
    bias = None if emission.form.float_bias else source.bias_value(quantized)
    weight = with_room_for_bias(quantized, source.matrix, bias, x.step)
    if weight is not quantized:  # coarser for this bias and this step of the input, and for no other operator
        version = (name, *version)
    names = emission.weight(source.operator.weight, version, weight)
    axis: dict[str, Any] = {"axis": 0} if weight.scale.ndim else {}
    return [
        emission.dequantized(tensor, x),
        emission.builder.compute("DequantizeLinear", names.parts, f"{name}.weight", **axis),
        source.bias(quantized) if bias is None else emit_bias(emission, name, bias, weight, x.step),
    ]
