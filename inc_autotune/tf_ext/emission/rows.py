"""Quantizes each row of a matrix by a range of its own, which is found while the model runs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.tf_ext.emission.activation_grid import MIN_FIRST, SCALED, Grid
from inc_autotune.tf_ext.emission.context import Emission, QuantizedRows
from inc_autotune.tf_ext.graph import reshape

ABOVE_ZERO = Grid(tf.quint8, SCALED, 0.0, 1.0, 1 / 255)
"""Of values relative to the smallest and largest of a row."""

AROUND_ZERO = Grid(tf.quint8, MIN_FIRST, -128 / 127, 1.0, 1 / 127)
"""Of values relative to the largest absolute one; kernels are faster with unsigned integers."""


def quantized_rows(emission: Emission, tensor: str, columns: int | None, scheme: str | None) -> QuantizedRows:
    """The rows of a tensor in integers, quantized once for all operators that read them.

    Args:
        emission: the graph under construction.
        tensor: a float tensor of it.
        columns: of a row, which the tensor is reshaped to; None: it is a matrix.
        scheme: asym, from the smallest value to the largest, or sym, as far below zero as above.
    """
    key = (tensor, columns, scheme)
    if key not in emission.rows:
        name = emission.builder.new(f"{tensor.replace(':', '_')}/rows")
        if columns is not None:
            shape = emission.constant(f"{name}/shape", np.array([-1, columns], np.int32))
            tensor = reshape(emission.builder, tensor, shape, f"{name}/matrix")
        relative, size, low = _relative(emission, tensor, scheme, name)
        values = emission.quantize(relative, AROUND_ZERO if low is None else ABOVE_ZERO)
        emission.rows[key] = QuantizedRows(values, size, low)
    return emission.rows[key]


def rounded_rows(emission: Emission, tensor: str, config: TensorConfig, name: str) -> str:
    """A tensor each of whose rows is rounded to the values that integers of a type could have.

    Args:
        emission: the graph under construction.
        tensor: float, of any rank; its last axis is that of a row.
        config: dtype and scheme.
        name: prefix of new names.
    """
    relative, size, low = _relative(emission, tensor, config.scheme, name)
    limits = integer_type(config.dtype)
    steps = limits.maximum - limits.minimum
    if low is None:
        steps = max(steps // 2, 1)
    many = emission.builder.scalar(f"{name}/steps", steps)
    rounded = _compute(emission, name, "Round", _compute(emission, name, "Mul", relative, many))
    floats = _compute(emission, name, "Mul", _compute(emission, name, "RealDiv", rounded, many), size)
    return floats if low is None else _compute(emission, name, "AddV2", floats, low)


def _relative(emission: Emission, tensor: str, scheme: str | None, name: str) -> tuple[str, str, str | None]:
    """Values relative to the range of their row, what 1 stands for in each row, and what 0 does; None: 0."""
    axis = emission.constant(f"{name}/axis", np.array(-1, np.int32))

    def reduced(op: str, source: str) -> str:
        attributes = {"T": tf.float32, "Tidx": tf.int32, "keep_dims": True}
        return emission.builder.compute(op, [source, axis], f"{name}/{op}", **attributes)

    # Rows of equal values have no range, and are their smallest value.
    if scheme == "sym":
        size = reduced("Max", _compute(emission, name, "Abs", tensor))
        return _compute(emission, name, "DivNoNan", tensor, size), size, None
    low = reduced("Min", tensor)
    size = _compute(emission, name, "Sub", reduced("Max", tensor), low)
    return _compute(emission, name, "DivNoNan", _compute(emission, name, "Sub", tensor, low), size), size, low


def _compute(emission: Emission, name: str, op: str, *inputs: str) -> str:
    return emission.builder.compute(op, inputs, f"{name}/{op}", T=tf.float32)
