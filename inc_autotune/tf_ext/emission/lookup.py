"""Writes lookups in tables of integers, whose rows become floats when they have been looked up."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune.core.op_config import OpConfig
from inc_autotune.tf_ext.emission.context import Emission
from inc_autotune.tf_ext.emission.float_kernels import rounded_weight
from inc_autotune.tf_ext.graph import data_inputs
from inc_autotune.tf_ext.operators import Operator


def emit_lookup(emission: Emission, operator: Operator, config: OpConfig) -> None:
    """Write a lookup whose table is int8 with a scale for each row.

    Args:
        emission: the graph under construction.
        operator: GatherV2.
        config: int8, weight-only.
    """
    name, node, builder = operator.name, operator.node, emission.builder
    table = rounded_weight(emission, operator, config, None, reduce_range=False)
    scale = np.broadcast_to(table.scale, table.values.shape[:1])[:, None]
    _, rows, axis = list(data_inputs(node))
    attributes = {key: node.attr[key].type for key in ("Tindices", "Taxis")}

    def looked_up(values: str, dtype: tf.DType, suffix: str) -> str:
        return builder.compute(
            "GatherV2",
            [values, rows, axis],
            f"{name}/{suffix}",
            Tparams=dtype,
            batch_dims=0,
            **{key: tf.as_dtype(value) for key, value in attributes.items()},
        )

    integers = looked_up(builder.constant(f"{name}/table", table.values), tf.int8, "integers")
    steps = looked_up(emission.constant(f"{name}/table/scale", np.ascontiguousarray(scale)), tf.float32, "steps")
    floats = builder.compute("Cast", [integers], f"{name}/floats", SrcT=tf.int8, DstT=tf.float32, Truncate=False)
    builder.make("Mul", [floats, steps], operator.output, T=tf.float32)
