"""Affine and scale quantization: integer types, the scheme formulas of each framework, fake-quantization.

Everything works on the array API, so numpy arrays and torch tensors run the same code, computed in float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import array_api_compat
import numpy as np

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.core.vocabulary import INTEGER_DTYPES, SCHEMES, listing

_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class IntegerType:
    """An integer data type of 1 to 8 bits.

    Args:
        name: `int8`, `uint4` and so on.
        bits: 1 to 8.
        signed: two's complement when True.
    """

    name: str
    bits: int
    signed: bool

    @property
    def minimum(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1


@dataclass(frozen=True)
class SchemeTable:
    """How one framework turns a range of real numbers into a scale and a zero point.

    With `absmax = max(|minimum|, |maximum|)` and the integers `quant_min..quant_max`:

    - sym, signed: `scale = absmax / ((quant_max - quant_min) / 2)`, zero point 0;
    - sym, unsigned, centred: the same scale, zero point in the middle (128 for uint8);
    - sym, unsigned, not centred: `scale = maximum / (quant_max - quant_min)`, zero point 0, negative values clip;
    - asym: `scale = (maximum - minimum) / (quant_max - quant_min)`, `zero_point = quant_min - round(minimum / scale)`.

    Args:
        narrow_bits: bit widths whose signed symmetric range leaves out the lowest integer (-127..127).
        centred_unsigned: whether symmetric unsigned data has its zero point in the middle.
        smallest_scale: a smaller scale (an all-zero tensor) is replaced by `dead_scale`.
        dead_scale: see `smallest_scale`.
        reduced_ranges: integer range by dtype under `reduce_range`, for dtypes that do not simply lose one bit.
    """

    narrow_bits: frozenset[int]
    centred_unsigned: bool
    smallest_scale: float
    dead_scale: float
    reduced_ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


_ONEDNN = SchemeTable(frozenset(range(2, 9)), False, float(_FLOAT32.tiny), 1.0)

FRAMEWORK_SCHEMES: Mapping[str, SchemeTable] = {
    # torch.ao.quantization.observer: the full range, so the scale is absmax / 127.5.
    "pytorch": SchemeTable(frozenset(), True, float(_FLOAT32.eps), float(_FLOAT32.eps)),
    # onnxruntime.quantization.quant_utils: only 8 bits have a narrow symmetric range; reduced int8 has 129 levels.
    "onnxruntime": SchemeTable(frozenset({8}), True, float(_FLOAT32.tiny), 1.0, {"int8": (-64, 64)}),
    # QuantizeV2 mode SCALED with narrow_range (sym) and MIN_FIRST (asym).
    "tensorflow": _ONEDNN,
    "ipex": _ONEDNN,
    "mxnet": _ONEDNN,
}


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """`real = (integer - zero_point) * scale`, integers from `quant_min` to `quant_max`.

    Args:
        scale: float32 array, 0-d (per tensor) or [C] (per channel), > 0; of groups of weights it may be < 0.
        zero_point: int32 array of the same shape, within `quant_min..quant_max`; float32 where zero points have
            fractions, so that zero itself need not be an integer.
        quant_min: smallest integer.
        quant_max: largest integer.
        zero_point_is_zero: the zero point is known to be 0 everywhere, so no pass over the data subtracts it.
    """

    scale: AnyNamespaceArray
    zero_point: AnyNamespaceArray
    quant_min: int
    quant_max: int
    zero_point_is_zero: bool = False

    @property
    def has_fractions(self) -> bool:
        """Whether zero points may lie between two integers."""
        xp = array_api_compat.array_namespace(self.scale)
        return bool(xp.isdtype(xp.asarray(self.zero_point).dtype, "real floating"))


def integer_type(name: str) -> IntegerType:
    """The integer type called `name`: `intN` or `uintN`, N from 1 to 8.

    Raises:
        ArgumentError: there is no such type.
    """
    match = re.fullmatch(r"(u?)int([1-8])", name) if isinstance(name, str) else None
    if match is None:
        raise ArgumentError(
            f"dtype={name!r}: not an integer type.\n"
            f"Allowed: 'int1' to 'int8' and 'uint1' to 'uint8'.{did_you_mean(name, INTEGER_DTYPES)}"
        )
    return IntegerType(name, int(match[2]), match[1] == "")


def quantization_parameters(
    minimum: AnyNamespaceArray | float,
    maximum: AnyNamespaceArray | float,
    *,
    dtype: str,
    scheme: str,
    framework: str = "pytorch",
    reduce_range: bool = False,
    zero_point_parts: int = 1,
) -> QuantizationParameters:
    """Scale and zero point for data between `minimum` and `maximum`, by a framework's own formula.

    The range is widened to hold zero, so zero is always represented exactly, unless zero points have fractions. One bit
    has two levels: under `sym` these are zero and the other integer, with scale `absmax`.

    Args:
        minimum: smallest value, a number, 0-d array, or [C] for one range per channel.
        maximum: largest value, the same shape.
        dtype: `intN` or `uintN`, N from 1 to 8.
        scheme: `sym` or `asym`.
        framework: a key of `FRAMEWORK_SCHEMES`, the framework with the formula.
        reduce_range: one bit less, against overflow of int16 sums on processors without VNNI.
        zero_point_parts: into so many parts the step between two zero points is divided; has no effect under `sym`.

    Returns:
        Parameters in the array namespace of `minimum`; numpy if both are numbers.

    Raises:
        ArgumentError: unknown dtype, scheme or framework; NaN, infinite or reversed range.

    Source: torch.ao.quantization.observer, onnxruntime.quantization.quant_utils, TensorFlow QuantizeV2, and the
        scheme tables of Intel Neural Compressor 2.x for IPEX and MXNet.
    """
    table = scheme_table(framework)
    kind = integer_type(dtype)
    check_choice("scheme", scheme, SCHEMES)
    quant_min, quant_max = _integer_range(table, kind, scheme, reduce_range)
    minimum, maximum = _range_arrays(minimum, maximum)
    xp = array_api_compat.array_namespace(minimum, maximum)
    zero = xp.zeros_like(minimum)
    usable = minimum <= maximum  # False for NaN
    minimum, maximum = xp.minimum(minimum, zero), xp.maximum(maximum, zero)

    centred = kind.signed or table.centred_unsigned
    levels = float(quant_max - quant_min)
    with np.errstate(over="ignore"):
        if scheme == "asym":
            scale = (maximum - minimum) / levels
        elif centred:
            scale = xp.maximum(-minimum, maximum) / max(levels / 2, 1.0)
        else:
            scale = maximum / levels
    if not bool(xp.all(usable & xp.isfinite(scale))):
        raise ArgumentError(
            f"minimum={minimum}, maximum={maximum}: not a range to quantize.\n"
            "Allowed: finite float32 numbers, minimum <= maximum. Look for NaN or infinite values in the tensor."
        )
    scale = xp.where(scale < table.smallest_scale, xp.full_like(scale, table.dead_scale), scale)

    if scheme == "asym":
        below = xp.round(minimum / scale * zero_point_parts) / zero_point_parts
        zero_point = xp.clip(quant_min - below, float(quant_min), float(quant_max))
        dtype_of_points = xp.int32 if zero_point_parts == 1 else xp.float32
        return QuantizationParameters(scale, xp.astype(zero_point, dtype_of_points), quant_min, quant_max)
    # Half to even gives 128, 8, 4, 2 for 8, 4, 3, 2 bits, and 0 for one bit, whose levels then are 0 and absmax.
    middle = round((quant_min + quant_max) / 2) if centred else quant_min
    zero_point = xp.full_like(scale, middle, dtype=xp.int32)
    return QuantizationParameters(scale, zero_point, quant_min, quant_max, zero_point_is_zero=middle == 0)


def quantize(x: AnyNamespaceArray, parameters: QuantizationParameters, axis: int | None = None) -> AnyNamespaceArray:
    """Round `x` to integers, half to even, and clip them to the integer range.

    Args:
        x: any float dtype and shape; computed in float32.
        parameters: per tensor, or per channel along `axis`.
        axis: the channel axis of `x`; None: `parameters` hold one scale.

    Returns:
        Integer-valued array in the dtype of `x` (exact in float16 and bfloat16 too), same shape.

    Raises:
        ArgumentError: the number of scales does not fit `x` and `axis`.
    """
    xp = array_api_compat.array_namespace(x)
    scale, zero_point = _broadcast(xp, x, parameters, axis)
    return xp.astype(_integers(xp, as_float32(xp, x), scale, zero_point, parameters), _float_dtype(xp, x), copy=False)


def dequantize(q: AnyNamespaceArray, parameters: QuantizationParameters, axis: int | None = None) -> AnyNamespaceArray:
    """Inverse of `quantize`: `(q - zero_point) * scale`, in the float dtype of `q` (float32 for an integer `q`)."""
    xp = array_api_compat.array_namespace(q)
    scale, zero_point = _broadcast(xp, q, parameters, axis)
    return xp.astype((as_float32(xp, q) - zero_point) * scale, _float_dtype(xp, q), copy=False)


def fake_quantize(
    x: AnyNamespaceArray, parameters: QuantizationParameters, axis: int | None = None
) -> AnyNamespaceArray:
    """`dequantize(quantize(x))`: the values an integer kernel would see, in the float dtype of `x`."""
    xp = array_api_compat.array_namespace(x)
    scale, zero_point = _broadcast(xp, x, parameters, axis)
    result = _integers(xp, as_float32(xp, x), scale, zero_point, parameters)
    if not parameters.zero_point_is_zero:
        result -= zero_point
    result *= scale
    return xp.astype(result, _float_dtype(xp, x), copy=False)


def signal_to_noise_db(reference: AnyNamespaceArray, value: AnyNamespaceArray) -> float:
    """Signal-to-quantization-noise ratio in decibels: `10 log10(sum(reference^2) / sum((value - reference)^2))`.

    Returns:
        Infinity if both are equal, minus infinity if only the reference is zero.
    """
    xp = array_api_compat.array_namespace(reference, value)
    wide_reference, wide_value = xp.astype(reference, xp.float64), xp.astype(value, xp.float64)
    signal = float(xp.sum(wide_reference**2))
    noise = float(xp.sum((wide_value - wide_reference) ** 2))
    return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float:
    """Of a power over another one; infinite where there is no noise, minus infinity where there is nothing else."""
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def scheme_table(framework: str) -> SchemeTable:
    """That of a framework; an ArgumentError for another name."""
    check_choice("framework", framework, tuple(FRAMEWORK_SCHEMES))
    return FRAMEWORK_SCHEMES[framework]


def check_choice(argument: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed, with an ArgumentError."""
    if value not in allowed:
        raise ArgumentError(
            f"{argument}={value!r}: unknown {argument}.\nAllowed: {listing(allowed)}.{did_you_mean(value, allowed)}"
        )


def _integer_range(table: SchemeTable, kind: IntegerType, scheme: str, reduce_range: bool) -> tuple[int, int]:
    if reduce_range:
        if kind.name in table.reduced_ranges:
            return table.reduced_ranges[kind.name]
        # One bit stays one bit: a type has at least two levels.
        kind = IntegerType(kind.name, max(kind.bits - 1, 1), kind.signed)
    narrow = scheme == "sym" and kind.signed and kind.bits in table.narrow_bits
    return kind.minimum + (1 if narrow else 0), kind.maximum


def _range_arrays(
    minimum: AnyNamespaceArray | float, maximum: AnyNamespaceArray | float
) -> tuple[AnyNamespaceArray, AnyNamespaceArray]:
    if not array_api_compat.is_array_api_obj(minimum):
        minimum = np.asarray(minimum, dtype=np.float32)
    if not array_api_compat.is_array_api_obj(maximum):
        maximum = np.asarray(maximum, dtype=np.float32)
    xp = array_api_compat.array_namespace(minimum, maximum)
    return as_float32(xp, minimum), as_float32(xp, maximum)


def as_float32(xp: Any, x: AnyNamespaceArray) -> AnyNamespaceArray:
    """The array in float32; the same one if it is."""
    return xp.astype(x, xp.float32, copy=False)


def _float_dtype(xp: Any, x: AnyNamespaceArray) -> Any:
    return x.dtype if xp.isdtype(x.dtype, "real floating") else xp.float32


def _broadcast(
    xp: Any, x: AnyNamespaceArray, parameters: QuantizationParameters, axis: int | None
) -> tuple[AnyNamespaceArray, AnyNamespaceArray]:
    """Scale and zero point as float32 arrays beside `x`, shaped to broadcast along `axis`."""
    device = array_api_compat.device(x)
    scale = xp.asarray(parameters.scale, dtype=xp.float32, device=device)
    zero_point = xp.astype(xp.asarray(parameters.zero_point, device=device), xp.float32)
    channels = math.prod(scale.shape)
    if channels == 1:
        return xp.reshape(scale, ()), xp.reshape(zero_point, ())
    if axis is None or not -x.ndim <= axis < x.ndim or x.shape[axis] != channels:
        raise ArgumentError(
            f"axis={axis}: {channels} scales do not fit an array of shape {tuple(x.shape)}.\n"
            "Allowed: the axis whose length is the number of scales; None for a single scale."
        )
    shape = [1] * x.ndim
    shape[axis] = channels
    return xp.reshape(scale, tuple(shape)), xp.reshape(zero_point, tuple(shape))


def _integers(
    xp: Any,
    x: AnyNamespaceArray,
    scale: AnyNamespaceArray,
    zero_point: AnyNamespaceArray,
    parameters: QuantizationParameters,
) -> AnyNamespaceArray:
    """`clip(round(x / scale) + zero_point)`, always new and float32; with fractions the sum is rounded."""
    result = x / scale
    if parameters.has_fractions:
        result = xp.round(result + zero_point)
    else:
        result = xp.round(result)
        if not parameters.zero_point_is_zero:
            result += zero_point
    return xp.clip(result, float(parameters.quant_min), float(parameters.quant_max))
