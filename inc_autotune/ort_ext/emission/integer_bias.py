"""The 32-bit bias of an integer kernel, whose scale is the scale of the input times the scale of the weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.graphs import QuantizedWeight
from inc_autotune.ort_ext.emission.context import Emission

LARGEST_BIAS = float(2**31 - 1 - 2**24)
"""Largest integer of a bias; it leaves room for the products that the kernel adds."""


def emit_bias(emission: Emission, name: str, bias: FloatArray, weight: QuantizedWeight, step: float) -> str:
    """Write an integer bias and return the name of the dequantized bias.

    Args:
        emission: the model under construction.
        name: of the operator.
        bias: float32 [out].
        weight: the operator's, from `with_room_for_bias`.
        step: scale of the operator's input.
    """
    scale = np.asarray(weight.scale * np.float32(step), np.float32)
    constants = [
        emission.builder.constant(f"{name}.bias.quantized", np.rint(bias / scale).astype(np.int32)),
        emission.builder.constant(f"{name}.bias.scale", scale),
    ]
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return emission.builder.compute("DequantizeLinear", constants, f"{name}.bias", **axis)


def with_room_for_bias(
    quantized: QuantizedWeight, weight: Callable[[], Array], bias: FloatArray | None, step: float
) -> QuantizedWeight:
    """The quantized weight, with a larger scale in channels whose bias would not fit into 32 bits.

    Args:
        quantized: quantized form of `weight`, per tensor or per channel of axis 0.
        weight: returns the weight in float32 [out, ...]; called only if a scale becomes larger.
        bias: float32 [out].
        step: scale of the operator's input.
    """
    if bias is None:
        return quantized
    least = np.abs(bias) / (LARGEST_BIAS * step)
    needed = np.asarray(least if quantized.scale.ndim else least.max(initial=0.0), np.float32)
    if (quantized.scale >= needed).all():
        return quantized
    scale = np.maximum(quantized.scale, needed)
    shape = (-1, *[1] * (quantized.values.ndim - 1)) if scale.ndim else ()
    limits = np.iinfo(quantized.values.dtype)
    integers = np.rint(weight() / scale.reshape(shape)) + quantized.zero_point.reshape(shape)
    values = np.clip(integers, limits.min, limits.max).astype(quantized.values.dtype)
    # Other channels keep their integers, which may not be the nearest ones.
    values = np.where((scale > quantized.scale).reshape(shape), values, quantized.values)
    return QuantizedWeight(values, scale, quantized.zero_point)
