"""Quantized weights, kept over the trials of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import numpy as np

from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import integer_type, quantize, weight_parameters
from inc_autotune.ort_ext.calibration.plan import FRAMEWORK

KEPT_VERSIONS = 2
"""Of each weight: the trials of a run mostly switch between two, quantized and smoothed or not."""

SCALE_OF_ZEROS = 1e-20
"""Of a weight that has nothing else."""

LARGE_BYTES = 8 << 20
"""A quantized weight above this is kept in one version only: models of such weights have no memory to spare, and
rounding takes little of the time of their trials."""


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


class WeightCache:
    """The last versions of each operator's quantized weight.

    Where two models, or two operators of one model, use the same version they use the same arrays, so they share memory
    and sessions share values.
    """

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[Hashable, QuantizedWeight]] = {}
        self._alive: WeakValueDictionary[Hashable, QuantizedWeight] = WeakValueDictionary()

    def get(self, operator: str, version: Hashable, make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """A version of a weight; made where nobody has it any more.

        Args:
            operator: whose weight it is; its last versions are kept.
            version: says which weight this is, and all that its integers depend on.
            make: makes it.
        """
        weight = self._alive.get(version)
        if weight is None:
            weight = self._alive[version] = make()
        versions = self._kept.setdefault(operator, OrderedDict())
        versions[version] = weight
        versions.move_to_end(version)
        if len(versions) > (1 if weight.values.nbytes > LARGE_BYTES else KEPT_VERSIONS):
            versions.popitem(last=False)
        return weight


def quantize_weight(weight: Array, config: TensorConfig, *, axis: int, reduce_range: bool) -> QuantizedWeight:
    """Round a float weight to integers of 8 bits or less, per tensor or per channel of `axis`.

    A channel of zeros gets the smallest scale of the others. Any would do for its weights, but a bias in 32-bit
    integers is in steps of it.
    """
    parameters = weight_parameters(weight, config, axis=axis, framework=FRAMEWORK, reduce_range=reduce_range)
    dtype = np.int8 if integer_type(config.dtype).signed else np.uint8
    values = quantize(weight, parameters, axis if parameters.scale.ndim else None).astype(dtype)
    others = tuple(index for index in range(weight.ndim) if index != axis % weight.ndim or not parameters.scale.ndim)
    is_zero = (weight == 0).all(axis=others)
    used = parameters.scale[~is_zero]
    scale = np.where(is_zero, used.min() if used.size else np.float32(SCALE_OF_ZEROS), parameters.scale)
    return QuantizedWeight(values, scale, parameters.zero_point.astype(dtype))


def quantize_blocks(matrix: FloatArray, config: TensorConfig, bits: int, block: int) -> QuantizedWeight:
    """Round a matrix to 4 or 8 bits, with a scale for each block of an output channel.

    Args:
        matrix: float32 [out_features, in_features].
        config: a signed symmetric dtype of at most `bits` bits.
        bits: 4 or 8, how integers are stored.
        block: elements of an output channel that share a scale.

    Returns:
        `values` uint8 [out_features, blocks, block * bits / 8], two integers of 4 bits in a byte, the first in the
        lower half; `scale` [out_features, blocks], 0 for blocks of zeros. As MatMulNBits takes them: symmetric integers
        are stored with their middle, 8 or 128, added.
    """
    outputs, inputs = matrix.shape
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = matrix
    rows = padded.reshape(outputs * blocks, block)
    parameters = weight_parameters(rows, replace(config, granularity="per_channel"), axis=0, framework=FRAMEWORK)
    rounded = quantize(rows, parameters, 0)
    # MatMulNBits multiplies by the integers with their middle added and takes the middle's share off again. What
    # rounding in float32 leaves of that must not count where a block is zero.
    scale = np.where(rounded.any(axis=1), parameters.scale, np.float32(0))
    values = (rounded + float(1 << (bits - 1))).astype(np.uint8).reshape(outputs, blocks, block)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return QuantizedWeight(
        np.ascontiguousarray(values), scale.reshape(outputs, blocks), np.full((), 1 << (bits - 1), np.uint8)
    )
