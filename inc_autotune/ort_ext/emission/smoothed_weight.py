"""The float weight and bias of a linear operator after smoothing."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.quantization import InputMeans
from inc_autotune.graphs import QuantizedWeight, content, corrected_bias
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator, weight_matrix


def smoothed_matrix(
    graph: Graph, operator: Operator, scale: FloatArray | None, divisor: FloatArray | None
) -> FloatArray:
    """The weight of a linear operator as it is written, float32 [out_features, in_features].

    Args:
        graph: the fp32 model.
        operator: a MatMul or Gemm.
        scale, divisor: see `SmoothedWeight`.
    """
    matrix: FloatArray = weight_matrix(operator, graph.constant(operator.weight))
    if scale is not None:
        matrix = matrix * scale
    if divisor is not None:
        matrix = matrix / divisor[:, None]
    return matrix


class SmoothedWeight:
    """The float weight and bias of an operator, times the smoothing scale of its input, over that of its output.

    Args:
        emission: the model under construction.
        operator: a MatMul or Gemm.
        scale: smoothing scale [in_features] that the input is divided by, and the weight multiplied by; None: 1.
        divisor: smoothing scale [out_features] of a later operator, by which the output is divided; None: 1.
    """

    def __init__(
        self, emission: Emission, operator: Operator, scale: FloatArray | None, divisor: FloatArray | None
    ) -> None:
        self.operator = operator
        self._emission, self._scale, self._divisor = emission, scale, divisor
        self.version: Hashable = (
            *(emission.graph.origin(operator.weight), operator.transposed, content(scale), content(divisor)),
        )

    def matrix(self) -> FloatArray:
        """float32 [out_features, in_features]."""
        return smoothed_matrix(self._emission.graph, self.operator, self._scale, self._divisor)

    def float_matrix(self, *, transposed: bool) -> str:
        """Name of the fp32 matrix in the new model, [out_features, in_features], or transposed."""

        def make() -> FloatArray:
            matrix = self.matrix()
            return np.ascontiguousarray(matrix.T if transposed else matrix)

        return self._emission.float_weight(self.operator.weight, (transposed, self.version), make)

    def bias_value(self, quantized: QuantizedWeight | None = None) -> FloatArray | None:
        """float32 [out_features]; None without bias.

        Args:
            quantized: the matrix in integers; the bias is corrected for it where the plan says so. None: it is not.
        """
        bias: FloatArray | None = None
        if self.operator.bias is not None:
            bias = self._emission.graph.constant(self.operator.bias)
            bias = bias if self._divisor is None else bias / self._divisor
        means = self._means(quantized)
        return bias if means is None or quantized is None else corrected_bias(bias, self.matrix(), quantized, means)

    def _means(self, quantized: QuantizedWeight | None) -> InputMeans | None:
        return None if quantized is None else self._emission.plan.calibration(self.operator.name).input_means

    def bias(self, quantized: QuantizedWeight | None = None) -> str | None:
        """Name of the bias in the new model; None without bias. Arguments are those of `bias_value`."""
        value = self.bias_value(quantized)
        if value is None or (self._divisor is None and self._means(quantized) is None):
            return self.operator.bias
        return self._emission.builder.constant(f"{self.operator.name}.bias", value)
