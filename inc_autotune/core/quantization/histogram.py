"""A streaming histogram and the clipping ranges read from it: percentile, KL divergence, mean squared error.

Bins are anchored at zero and their width is a power of two, so widening the range merges whole neighbours: the
counts depend on the data alone, never on how the data was split into batches or on the order of the batches.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.core.quantization.affine import dequantize, integer_type, quantization_parameters, quantize
from inc_autotune.core.vocabulary import ALGORITHMS, listing

BINS = 8192
PERCENTILE = 99.999

_HALF = BINS // 2
_SMALLEST_EXPONENT = -100  # keeps the reciprocal of a bin's width finite in float32
_LARGEST_EXPONENT = 128
_EMPTY_BIN_MASS = 1e-4
_PIECE = 1 << 16

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Histogram:
    """Counts of values in `BINS` bins from `-limit` to `limit`, where `limit` is a power of two above every |value|.

    Uses 64 KiB however many values it has seen.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self._exponent = _SMALLEST_EXPONENT

    @classmethod
    def of(cls, counts: Counts, exponent: int) -> Histogram:
        """The histogram with these counts, whose limit is two to the power of `exponent`."""
        made = cls()
        made.counts, made._exponent = counts, exponent
        return made

    @property
    def exponent(self) -> int:
        """The limit is two to the power of this."""
        return self._exponent

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent) / _HALF

    @property
    def edges(self) -> Floats:
        """The `BINS + 1` edges of the bins."""
        return np.arange(-_HALF, _HALF + 1, dtype=np.float64) * self.width

    def update(self, values: FloatArray) -> None:
        """Count `values` (any shape, finite)."""
        if values.size == 0:
            return
        largest = max(abs(float(values.min())), abs(float(values.max())))
        if largest > 0:  # the exponent of zero, by frexp, is that of one half
            self._widen(math.frexp(largest)[1])
        flat, bins_per_unit = values.reshape(-1), np.float32(1.0 / self.width)
        # In pieces that stay in the cache: ten times faster than whole tensors.
        for start in range(0, flat.size, _PIECE):
            bins = np.floor(flat[start : start + _PIECE] * bins_per_unit).astype(np.intp)
            bins += _HALF
            self.counts += np.bincount(bins, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted; the same as having seen all the data here."""
        same_range = other.copy()
        self._widen(other._exponent)
        same_range._widen(self._exponent)
        self.counts += same_range.counts

    def copy(self) -> Histogram:
        """A snapshot that later updates do not change."""
        snapshot = Histogram()
        snapshot.counts, snapshot._exponent = self.counts.copy(), self._exponent
        return snapshot

    def _widen(self, exponent: int) -> None:
        exponent = min(exponent, _LARGEST_EXPONENT)
        factor_bits = min(exponent - self._exponent, _HALF.bit_length() - 1)
        if factor_bits <= 0:
            return
        factor = 1 << factor_bits
        kept = _HALF // factor
        counts = np.zeros(BINS, np.int64)
        counts[_HALF - kept : _HALF + kept] = self.counts.reshape(-1, factor).sum(1)
        self.counts, self._exponent = counts, exponent


def clipping_range(
    histogram: Histogram,
    minimum: float,
    maximum: float,
    *,
    algorithm: str,
    dtype: str,
    scheme: str,
    framework: str = "pytorch",
) -> tuple[float, float]:
    """The range to quantize a tensor with, never wider than `minimum..maximum`.

    Args:
        histogram: of the tensor's values.
        minimum: exact smallest value of the tensor.
        maximum: exact largest value of the tensor.
        algorithm: `minmax`: the whole range; `percentile`: cut so that 99.999 % of the values remain; `kl`: the
            threshold on |x| with the least Kullback-Leibler divergence between the histogram and its quantized form;
            `mse`: the threshold on |x| with the least squared error.
        dtype: the integer type, `kl` and `mse` depend on its number of levels.
        scheme: `sym` or `asym`; `percentile` cuts |x| for `sym`, both tails for `asym`.
        framework: the framework with the scale formula that `mse` uses.

    Raises:
        ArgumentError: unknown algorithm or dtype.

    Source: NVIDIA, 8-bit inference with TensorRT, GTC 2017 (kl); defaults of onnxruntime.quantization.calibrate.
    """
    if algorithm not in ALGORITHMS:
        raise ArgumentError(
            f"algorithm={algorithm!r}: unknown calibration algorithm.\n"
            f"Allowed: {listing(ALGORITHMS)}.{did_you_mean(algorithm, ALGORITHMS)}"
        )
    integer_type(dtype)
    if algorithm == "minmax" or not histogram.counts.any():
        return minimum, maximum
    if algorithm == "percentile":
        lower, upper = _percentile_range(histogram, scheme, PERCENTILE / 100)
    else:
        threshold = (
            _kl_threshold(histogram, dtype, scheme)
            if algorithm == "kl"
            else _mse_threshold(histogram, minimum, maximum, dtype, scheme, framework)
        )
        lower, upper = -threshold, threshold
    return min(max(lower, minimum), maximum), max(min(upper, maximum), minimum)


def _percentile_range(histogram: Histogram, scheme: str, kept: float) -> tuple[float, float]:
    """Quantiles by linear interpolation inside a bin."""
    if scheme == "sym":
        magnitudes = histogram.counts[_HALF:] + histogram.counts[:_HALF][::-1]
        threshold = _quantile(magnitudes, histogram.edges[_HALF:], kept)
        return -threshold, threshold
    cut = (1.0 - kept) / 2
    return _quantile(histogram.counts, histogram.edges, cut), _quantile(histogram.counts, histogram.edges, 1.0 - cut)


def _quantile(counts: Counts, edges: Floats, fraction: float) -> float:
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    # Only the edges of occupied bins: within a stretch of empty bins the quantile would be undefined.
    occupied = np.flatnonzero(counts)
    kept = np.unique(np.concatenate([occupied, occupied + 1]))
    return float(np.interp(fraction * cumulative[-1], cumulative[kept], edges[kept]))


def _kl_threshold(histogram: Histogram, dtype: str, scheme: str) -> float:
    counts = _without_zeros(histogram.counts.astype(np.float64))
    occupied = np.flatnonzero(counts)
    if not occupied.size:
        return 0.0
    first, end = int(occupied[0]), int(occupied[-1]) + 1
    integer = integer_type(dtype)
    levels = integer.maximum - integer.minimum + 1
    widest = max(_HALF - first, end - _HALF, 1)
    best_half_width, least_divergence = widest, math.inf
    for half_width in np.unique(np.linspace(max(levels // 2, 1), widest, 128).astype(np.int64))[::-1]:
        lower, upper = max(first, _HALF - int(half_width)), min(end, _HALF + int(half_width))
        if upper - lower < levels:
            break
        used_levels = levels * (upper - lower) / (2 * half_width) if scheme == "sym" else levels
        divergence = _divergence(counts, lower, upper, max(1, round(used_levels)))
        if divergence < least_divergence:
            best_half_width, least_divergence = int(half_width), divergence
    return best_half_width * histogram.width


def _without_zeros(counts: Floats) -> Floats:
    """Counts without the zeros that stand out, as behind a ReLU: every range has zero as an integer.

    Their bin alone would decide for the range in which an integer is no wider than a bin.
    """
    beside = max(counts[_HALF - 1], counts[_HALF + 1])
    counts[_HALF] = min(counts[_HALF], beside)
    return counts


def _divergence(counts: Floats, lower: int, upper: int, levels: int) -> float:
    """KL divergence between the clipped distribution and its quantization to `levels` levels."""
    inside = counts[lower:upper]
    reference = inside.copy()
    reference[0] += counts[:lower].sum()
    reference[-1] += counts[upper:].sum()
    level = np.arange(inside.size) * levels // inside.size
    sums = np.bincount(level, weights=inside, minlength=levels)
    filled = np.bincount(level, weights=inside > 0, minlength=levels)
    quantized = np.where(inside > 0, (sums / np.maximum(filled, 1))[level], 0.0)
    present = reference > 0
    p = reference[present] / reference.sum()
    # Mass clipped into an empty bin would make the divergence infinite, however small the mass.
    q = np.maximum(quantized[present] / max(quantized.sum(), 1.0), _EMPTY_BIN_MASS / inside.size)
    return float(np.sum(p * np.log(p / q)))


def _mse_threshold(
    histogram: Histogram, minimum: float, maximum: float, dtype: str, scheme: str, framework: str
) -> float:
    occupied = np.flatnonzero(histogram.counts)
    weights = histogram.counts[occupied].astype(np.float64)
    centres = np.clip((histogram.edges[:-1] + histogram.width / 2)[occupied], minimum, maximum).astype(np.float32)
    largest = max(-minimum, maximum)
    best_threshold, least_error = largest, math.inf
    for threshold in largest * np.geomspace(1.0, 0.01, 64):
        lower, upper = min(max(minimum, -threshold), 0.0), max(min(maximum, threshold), 0.0)
        parameters = quantization_parameters(lower, upper, dtype=dtype, scheme=scheme, framework=framework)
        error = dequantize(quantize(centres, parameters), parameters) - centres
        total = float(np.dot(weights, error.astype(np.float64) ** 2))
        if total < least_error:
            best_threshold, least_error = float(threshold), total
    return best_threshold
