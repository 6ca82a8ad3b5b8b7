"""Embedding lookups in a quantized table."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import QuantizedWeight, quantize_weight
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.operators import Operator


def emit_gather(emission: Emission, operator: Operator, config: OpConfig) -> None:
    """Write a lookup of integer rows and of their scales, and the product: only rows that are read become float.

    Args:
        emission: the model under construction.
        operator: a Gather of rows.
        config: weight-only; a symmetric weight.
    """
    graph, builder, name = emission.graph, emission.builder, operator.name

    def make() -> QuantizedWeight:
        weight = quantize_weight(graph.constant(operator.weight), config.weight, axis=0, framework=FRAMEWORK)
        rows = weight.values.shape[0]
        scale = np.broadcast_to(weight.scale.reshape(-1, 1), (rows, 1))
        return QuantizedWeight(weight.values, np.ascontiguousarray(scale), weight.zero_point)

    version = ("table", config.weight, graph.origin(operator.weight))
    weight = emission.weight(operator.weight, version, emission.weights.get(name, version, make))
    integers = builder.compute("Gather", [weight.values, operator.input], f"{name}.integers", name, axis=0)
    scale = builder.compute("Gather", [weight.scale, operator.input], f"{name}.scale", axis=0)
    as_float = builder.compute("Cast", [integers], f"{name}.float", to=onnx.TensorProto.FLOAT)
    builder.produce("Mul", [as_float, scale], [operator.output], builder.new_node(f"{name}.Mul"))
