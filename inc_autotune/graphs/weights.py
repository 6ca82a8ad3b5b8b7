"""Weights as they are written into models, kept over the trials of a run and shared by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import (
    QuantizationParameters,
    dequantize,
    integer_type,
    quantize,
    restore_moments,
    weight_parameters,
)
from inc_autotune.graphs.rounding import Steps, moved

KEPT_VERSIONS = 2
"""Of each weight: the trials of a run mostly switch between two, quantized and smoothed or not."""

SCALE_OF_ZEROS = 1e-20
"""Of a weight that has nothing else."""

LARGE_BYTES = 8 << 20
"""A weight above this is kept in one version only: models of such weights have no memory to spare, and rounding takes
little of the time of their trials."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight in integers.

    Args:
        values: int8 or uint8, in the layout of the operator that uses it.
        scale: float32, 0-d or one for each output channel (or row, or block).
        zero_point: of the dtype of `values` and the shape of `scale`.
    """

    values: Array
    scale: FloatArray
    zero_point: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the integers."""
        return self.values.nbytes

    def floats(self, axis: int) -> FloatArray:
        """What the integers stand for, float32 in the layout of `values`.

        Args:
            axis: of the output channels.
        """
        limits = np.iinfo(self.values.dtype)
        parameters = QuantizationParameters(self.scale, self.zero_point, int(limits.min), int(limits.max))
        return np.asarray(dequantize(self.values, parameters, axis if self.scale.ndim else None), np.float32)

    def doubled(self) -> QuantizedWeight:
        """The same numbers in even integers, for a symmetric weight of 7 bits."""
        values = self.values * np.int8(2)
        values.flags.writeable = False
        return QuantizedWeight(values, np.asarray(self.scale / np.float32(2)), self.zero_point)


class Sized(Protocol):
    """An array, or something made of arrays."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""


Kept = TypeVar("Kept", bound=Sized)


class WeightCache:
    """The last versions of each operator's weight.

    A version is known by its content: the float weight and all that was done to it. Where two models, or two operators
    of one model, use the same version they use the same arrays, so it is held, and saved, once.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, OrderedDict[Hashable, Any]] = {}
        self._alive: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def get(self, operator: Hashable, version: Hashable, make: Callable[[], Kept]) -> Kept:
        """A version of a weight; made where nobody has it any more.

        Args:
            operator: whose weight it is; its last versions are kept.
            version: says which weight this is, and all that its values depend on.
            make: makes it.
        """
        weight = self._alive.get(version)
        if weight is None:
            weight = self._alive[version] = make()
        versions = self._kept.setdefault(operator, OrderedDict())
        versions[version] = weight
        versions.move_to_end(version)
        if len(versions) > (1 if weight.nbytes > LARGE_BYTES else KEPT_VERSIONS):
            versions.popitem(last=False)
        return cast("Kept", weight)


def quantize_weight(
    weight: FloatArray,
    config: TensorConfig,
    *,
    axis: int,
    framework: str,
    reduce_range: bool = False,
    corrected: bool = False,
    steps: Steps | None = None,
) -> QuantizedWeight:
    """Round a float weight to integers of 8 bits or less, per tensor or per channel of `axis`.

    A channel of zeros gets the smallest scale of the others. Any would do for its weights, but a bias in 32-bit
    integers is in steps of it.

    Args:
        weight: any shape.
        config: how.
        axis: of the output channels.
        framework: whose formulas give the scales.
        reduce_range: use one bit less.
        corrected: give each channel the mean and the norm that it has in float.
        steps: how far integers are from the nearest ones, see `weight_steps`.

    Raises:
        RecipeError: the steps are of another weight.
    """
    parameters = weight_parameters(weight, config, axis=axis, framework=framework, reduce_range=reduce_range)
    dtype = np.int8 if integer_type(config.dtype).signed else np.uint8
    rounded = moved(quantize(weight, parameters, axis if parameters.scale.ndim else None), steps, parameters, axis)
    if corrected:
        rounded, parameters = restore_moments(weight, rounded, parameters, axis % weight.ndim)
    values = np.asarray(rounded.astype(dtype), order="C")
    values.flags.writeable = False
    others = tuple(index for index in range(weight.ndim) if index != axis % weight.ndim or not parameters.scale.ndim)
    is_zero = (weight == 0).all(axis=others)
    used = parameters.scale[~is_zero]
    scale = np.where(is_zero, used.min() if used.size else np.float32(SCALE_OF_ZEROS), parameters.scale)
    # NumPy 1 makes float64 of what has no dimensions.
    return QuantizedWeight(values, np.asarray(scale, np.float32), parameters.zero_point.astype(dtype))
