"""The error of one linear operator computed from quantized rows and a quantized weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.affine import quantization_parameters, quantize
from inc_autotune.core.quantization.groups import fake_quantize_groups
from inc_autotune.core.quantization.weight_grid import weight_parameters

IntegerProduct = Callable[[AnyNamespaceArray, AnyNamespaceArray], AnyNamespaceArray]
"""`(x [R, K], w [N, K]) -> x @ w.T [R, N]`, a new float32 array; both operands integer-valued floats in -128..127."""

# Elements of a weight that are quantized at a time, in temporaries of 4 MiB. The allocator gives larger temporaries
# back to the system, and the page faults of the next allocation take twice as long as the arithmetic.
_CHUNK_ELEMENTS = 1 << 20

_SAFE_TO_SQUARE = 1e15
"""The square of a smaller number is within float32, and so is a sum of 10 ** 8 such squares."""


@dataclass(frozen=True, eq=False)
class QuantizedRows:
    """Rows of an activation: `real = (values - zero_point) * scale`.

    Args:
        values: integer-valued float32 [R, K] within -128..127, or real numbers where the activation stays in float.
        scale: of the whole tensor, or of each row, [R, 1]; 1 for float rows.
        zero_point: an integer, or an integer-valued one for each row, [R, 1]; 0 for float rows.
        is_integer: whether the activation is quantized.
    """

    values: AnyNamespaceArray
    scale: float | AnyNamespaceArray
    zero_point: int | AnyNamespaceArray
    is_integer: bool

    @property
    def has_zero_point(self) -> bool:
        """Whether zero is another integer than 0."""
        return not isinstance(self.zero_point, int) or self.zero_point != 0


def quantize_rows(
    rows: AnyNamespaceArray, minimum: float, maximum: float, config: TensorConfig, *, framework: str = "pytorch"
) -> QuantizedRows:
    """Quantize float32 rows [R, K] with a per-tensor range; 8-bit unsigned integers are shifted to -128..127."""
    parameters = quantization_parameters(
        minimum, maximum, dtype=config.dtype, scheme=config.scheme or "asym", framework=framework
    )
    values = quantize(rows, parameters)
    shift = _signed_shift(parameters.quant_max)
    if shift:
        values -= shift
    return QuantizedRows(values, float(parameters.scale), int(parameters.zero_point) - shift, True)


def quantize_each_row(rows: AnyNamespaceArray, config: TensorConfig, *, framework: str = "pytorch") -> QuantizedRows:
    """Quantize float32 rows [R, K], each with its own range, as dynamic kernels with a range for each token do."""
    xp = array_api_compat.array_namespace(rows)
    lowest, highest = xp.min(rows, axis=1), xp.max(rows, axis=1)
    scheme = config.scheme or "asym"
    parameters = quantization_parameters(lowest, highest, dtype=config.dtype, scheme=scheme, framework=framework)
    values = quantize(rows, parameters, axis=0)
    shift = _signed_shift(parameters.quant_max)
    if shift:
        values -= shift
    scale = xp.reshape(xp.astype(parameters.scale, xp.float32), (-1, 1))
    zero_point = xp.reshape(xp.astype(parameters.zero_point, xp.float32), (-1, 1)) - shift
    return QuantizedRows(values, scale, zero_point, True)


class OperatorLoss:
    """Relative squared error of `x @ weight.T` over fixed rows.

    Args:
        rows: float32 [R, K], not smoothed.
        weight: any float dtype, [N, K].
        config: how the weight is quantized; a float dtype makes every loss 0.
        framework: the framework with the scale formulas.
        reduce_range: one bit less for the weight.
        integer_product: used for rows that are quantized; None: a float32 matmul.
    """

    def __init__(
        self,
        rows: AnyNamespaceArray,
        weight: AnyNamespaceArray,
        config: TensorConfig,
        *,
        framework: str = "pytorch",
        reduce_range: bool = False,
        integer_product: IntegerProduct | None = None,
    ) -> None:
        self._xp: Any = array_api_compat.array_namespace(rows, weight)
        self._weight = weight
        self._config = config
        self._framework = framework
        self._reduce_range = reduce_range
        self._integer_product = integer_product
        self._references: list[AnyNamespaceArray] = []
        if not config.is_float:
            self._references = [rows @ self._xp.matrix_transpose(chunk) for chunk in self._chunks()]
        self._unit = self._unit_of_squares()
        self._energy = sum(float(self._xp.sum((each / self._unit) ** 2)) for each in self._references)

    def loss(self, rows: QuantizedRows, scale: AnyNamespaceArray | None) -> float:
        """`||Y_q - Y||^2 / ||Y||^2` (`||Y_q||^2` if the reference output is all zero).

        Infinity if one of the two norms is beyond float32.

        Args:
            rows: rows of the activation, divided by `scale` and quantized.
            scale: smoothing scale [K] to multiply the weight's input channels by; None: 1.
        """
        error = 0.0
        for reference, chunk in zip(self._references, self._chunks(), strict=False):
            difference = self._product(rows, chunk if scale is None else chunk * scale)
            difference -= reference
            if self._unit != 1.0:
                difference /= self._unit
            difference *= difference
            error += float(self._xp.sum(difference))
        loss = error / self._energy if self._energy > 0 else error
        return loss if math.isfinite(loss) else math.inf

    def _unit_of_squares(self) -> float:
        """Divisor of the outputs before squaring; 1 unless the squares would leave float32."""
        xp = self._xp
        sizes = [max(float(xp.max(each)), -float(xp.min(each))) for each in self._references if 0 not in each.shape]
        largest = max(sizes, default=0.0)
        return 1.0 if 1 / _SAFE_TO_SQUARE < largest < _SAFE_TO_SQUARE or largest == 0.0 else largest

    def _chunks(self) -> Iterator[AnyNamespaceArray]:
        """The weight in float32, a few output channels at a time; all at once if the channels share one range."""
        outputs, inputs = self._weight.shape
        size = outputs
        if self._config.granularity != "per_tensor":
            size = max(_CHUNK_ELEMENTS // max(inputs, 1), 1)
        for start in range(0, outputs, max(size, 1)):
            yield self._xp.astype(self._weight[start : start + size, :], self._xp.float32, copy=False)

    def _product(self, rows: QuantizedRows, weight: AnyNamespaceArray) -> AnyNamespaceArray:
        """The operator's output [R, N] from integers, computed as an integer kernel does."""
        xp = self._xp
        if self._config.group_size is not None:
            rounded = fake_quantize_groups(weight, self._config, framework=self._framework)
            return (rows.values - rows.zero_point) * rows.scale @ xp.matrix_transpose(rounded)
        parameters = weight_parameters(
            weight, self._config, axis=0, framework=self._framework, reduce_range=self._reduce_range
        )
        integers = quantize(weight, parameters, axis=0)
        zero_point = None if parameters.zero_point_is_zero else xp.astype(parameters.zero_point, xp.float32)
        if self._integer_product is None or not rows.is_integer:
            if zero_point is not None:
                integers -= xp.reshape(zero_point, (-1, 1))
            centred = rows.values - rows.zero_point if rows.has_zero_point else rows.values
            result = centred @ xp.matrix_transpose(integers)
        else:
            shift = _signed_shift(parameters.quant_max)
            if shift:
                integers -= shift
            result = self._integer_product(rows.values, integers)
            # sum((x - zx)(w - zw)) = sum(x w) - zx sum(w) - zw (sum(x) - K zx)
            if rows.has_zero_point:
                result -= rows.zero_point * xp.sum(integers, axis=1)
            if zero_point is not None:
                row_sums = xp.sum(rows.values, axis=1, keepdims=True) - weight.shape[1] * rows.zero_point
                result -= row_sums * (zero_point - shift)
        result *= rows.scale * parameters.scale
        return result


def _signed_shift(quant_max: int) -> int:
    """What to subtract from unsigned 8-bit integers to bring them into the signed range."""
    return 128 if quant_max > 127 else 0
