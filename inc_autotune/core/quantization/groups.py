"""Weights of an output channel in groups that share a scale, as a matrix with one row for each group."""

from __future__ import annotations

import array_api_compat

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import fake_quantize
from inc_autotune.core.quantization.weight_grid import weight_parameters


def as_groups(weight: AnyNamespaceArray, size: int) -> AnyNamespaceArray:
    """The groups of a weight [out_features, in_features] as rows: [out_features * in_features / size, size].

    Args:
        weight: any dtype; its columns are a multiple of `size`.
        size: weights in a group, one after another along the columns.
    """
    return array_api_compat.array_namespace(weight).reshape(weight, (-1, size))


def beside_columns(values: AnyNamespaceArray, outputs: int, size: int) -> AnyNamespaceArray:
    """Values of groups, [groups], repeated for each of their weights: [outputs, in_features]."""
    xp = array_api_compat.array_namespace(values)
    return xp.reshape(xp.repeat(values, size), (outputs, -1))


def fake_quantize_groups(weight: AnyNamespaceArray, config: TensorConfig, *, framework: str) -> AnyNamespaceArray:
    """A weight [out_features, in_features] rounded in its groups, in its own dtype.

    Args:
        weight: any float dtype.
        config: with a `group_size`.
        framework: a key of `FRAMEWORK_SCHEMES`.
    """
    assert config.group_size is not None
    xp = array_api_compat.array_namespace(weight)
    rows = as_groups(weight, config.group_size)
    return xp.reshape(
        fake_quantize(rows, weight_parameters(rows, config, axis=0, framework=framework), 0), weight.shape
    )
