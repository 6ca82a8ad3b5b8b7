"""Quantized weights, kept over the trials of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import integer_type, quantize, weight_parameters
from inc_autotune.tf_ext.calibration.plan import FRAMEWORK

KEPT_VERSIONS = 2
"""Of each weight: the trials of a run mostly switch between two, quantized and smoothed or not."""

LARGEST_INT8 = 127.0


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight in integers.

    Attributes:
        values: int8 or uint8, in the layout of the float weight.
        scale: float32, 0-d or one for each feature.
        zero_point: int32, like `scale`.
    """

    values: Array
    scale: FloatArray
    zero_point: Array

    def doubled(self) -> QuantizedWeight:
        """The same numbers in even integers, for a symmetric weight of 7 bits."""
        values = self.values * np.int8(2)
        values.flags.writeable = False
        return QuantizedWeight(values, self.scale / np.float32(2), self.zero_point)


class WeightCache:
    """The last versions of each operator's weight, so that models with the same version share one array."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, OrderedDict[Hashable, QuantizedWeight]] = {}

    def get(self, operator: Hashable, version: Hashable, make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """The version of an operator's weight; made where it is not there any more."""
        versions = self._kept.setdefault(operator, OrderedDict())
        if version not in versions:
            versions[version] = make()
            if len(versions) > KEPT_VERSIONS:
                versions.popitem(last=False)
        versions.move_to_end(version)
        return versions[version]


def quantize_weight(weight: FloatArray, config: TensorConfig, *, axis: int, reduce_range: bool) -> QuantizedWeight:
    """Round a float weight to integers of 8 bits or less.

    Args:
        weight: any shape.
        config: how.
        axis: of the features.
        reduce_range: use one bit less.
    """
    parameters = weight_parameters(weight, config, axis=axis, framework=FRAMEWORK, reduce_range=reduce_range)
    dtype = np.int8 if integer_type(config.dtype).signed else np.uint8
    values = quantize(weight, parameters, axis if parameters.scale.ndim else None).astype(dtype)
    values.flags.writeable = False
    return QuantizedWeight(values, np.asarray(parameters.scale, np.float32), np.asarray(parameters.zero_point))
