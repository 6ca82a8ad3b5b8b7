"""Streaming statistics of one activation: ranges, means, a uniform sample of rows, and a histogram where asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from inc_autotune.core.arrays import AnyNamespaceArray, to_float32
from inc_autotune.core.errors import CalibrationError
from inc_autotune.core.quantization.histogram import Histogram, clipping_range
from inc_autotune.core.vocabulary import ALGORITHMS


class ActivationStatistics:
    """What calibration remembers of one activation tensor, in memory that does not grow with the data.

    Per-channel minimum, maximum and mean are exact over everything seen, in any order of batches and merges: sums are
    kept in twice the digits of float64, which are enough where the largest sum of a batch is below 2^80 times the
    smallest. The sampled rows are a uniform sample without replacement of all tokens: every token draws a random key,
    and the `rows` smallest keys win. The sample depends on the sequence of tokens and `seed`, not on how the sequence
    was cut into batches. Arrays stay in the caller's namespace and device, in float32.

    Args:
        name: name of the operator or tensor, for messages.
        rows: how many tokens to keep; 0: none.
        seed: seed of the sample. Statistics that will be merged need different seeds to be sampled independently.
        histogram: also count values, for the algorithms `kl`, `percentile` and `mse`.
    """

    def __init__(self, name: str, *, rows: int = 0, seed: int = 0, histogram: bool = False) -> None:
        self.name = name
        self.rows = rows
        self.seed = seed
        self.count = 0
        self._counted = 0
        self.histogram = Histogram() if histogram else None
        self._generator = np.random.default_rng(seed)
        self._keys: npt.NDArray[np.float64] = np.empty(0)
        self._sample: AnyNamespaceArray | None = None
        self._channel_minimum: AnyNamespaceArray | None = None
        self._channel_maximum: AnyNamespaceArray | None = None
        self._channel_sum: AnyNamespaceArray | None = None
        self._sum_rest: AnyNamespaceArray | None = None
        """What rounding has left out of the sum."""

    def update(
        self,
        x: AnyNamespaceArray,
        channel_axis: int = -1,
        keep_rows: bool = True,
        real: AnyNamespaceArray | None = None,
    ) -> None:
        """Take in one batch.

        Args:
            x: any shape with channels along `channel_axis`, any dtype, converted to float32; an empty one is ignored.
            channel_axis: the axis of the channels; everything else counts as tokens.
            keep_rows: False leaves this batch out of the sampled rows.
            real: bool, in the shape of the first axes of `x`, which the channels are not among; where it is false, as
                at padding, values do not count in `channel_mean`. None: all count.

        Raises:
            CalibrationError: NaN or infinity in `x`, or another number of channels than before; nothing is taken in.
        """
        # Statistics must not keep a framework's autograd graph alive.
        x = x.detach() if hasattr(x, "detach") else x
        xp = array_api_compat.array_namespace(x)
        if x.ndim == 0:
            raise CalibrationError(f"{self.name}: the activation is a single number; expected an array with channels.")
        channel_axis %= x.ndim
        channels = x.shape[channel_axis]
        tokens = int(array_api_compat.size(x) or 0) // max(channels, 1)
        if tokens == 0:
            return
        if not xp.isdtype(x.dtype, "real floating"):
            x = xp.astype(x, xp.float32)
        other_axes = tuple(axis for axis in range(x.ndim) if axis != channel_axis)
        minimum = xp.astype(xp.min(x, axis=other_axes), xp.float32)
        maximum = xp.astype(xp.max(x, axis=other_axes), xp.float32)
        self._check(xp, minimum, maximum, tuple(x.shape))
        if real is None:
            sums, counted = xp.sum(x, axis=other_axes, dtype=xp.float32), tokens
        else:
            rows = xp.reshape(xp.moveaxis(x, channel_axis, -1)[real], (-1, channels))
            sums, counted = xp.sum(rows, axis=0, dtype=xp.float32), rows.shape[0]
        sums = xp.astype(sums, xp.float64)
        if self._channel_minimum is None:
            self._channel_minimum, self._channel_maximum = minimum, maximum
        else:
            self._channel_minimum = xp.minimum(self._channel_minimum, minimum)
            self._channel_maximum = xp.maximum(self._channel_maximum, maximum)
        self._add(sums)
        self.count += tokens
        self._counted += counted
        if keep_rows and self.rows > 0:
            rows = xp.moveaxis(x, channel_axis, -1) if x.ndim > 1 else x[None, :]
            self._sample_rows(rows, self._generator.random(tokens))
        if self.histogram is not None:
            self.histogram.update(to_float32(x))

    @property
    def channel_minimum(self) -> AnyNamespaceArray:
        """Smallest value per channel, float32 [C]."""
        return self._seen(self._channel_minimum)

    @property
    def channel_maximum(self) -> AnyNamespaceArray:
        """Largest value per channel, float32 [C]."""
        return self._seen(self._channel_maximum)

    @property
    def channel_mean(self) -> AnyNamespaceArray:
        """Mean per channel over all tokens that are no padding, float32 [C]; zero where all are."""
        total = self._seen(self._channel_sum) + self._seen(self._sum_rest)
        xp = array_api_compat.array_namespace(total)
        return xp.astype(total / max(self._counted, 1), xp.float32)

    @property
    def channel_absmax(self) -> AnyNamespaceArray:
        """Largest |value| per channel, float32 [C]."""
        minimum, maximum = self.channel_minimum, self.channel_maximum
        return array_api_compat.array_namespace(minimum).maximum(-minimum, maximum)

    @property
    def minimum(self) -> float:
        """Smallest value of the tensor."""
        return float(array_api_compat.array_namespace(self.channel_minimum).min(self.channel_minimum))

    @property
    def maximum(self) -> float:
        """Largest value of the tensor."""
        return float(array_api_compat.array_namespace(self.channel_maximum).max(self.channel_maximum))

    @property
    def sampled_rows(self) -> AnyNamespaceArray | None:
        """The sample, float32 [min(rows, tokens), C] in the order seen; None when no row was kept."""
        return self._sample

    def activation_range(
        self, algorithm: str, dtype: str, scheme: str, *, framework: str = "pytorch"
    ) -> tuple[float, float]:
        """The per-tensor range to quantize with.

        Args:
            algorithm: `minmax` (exact), `kl`, `percentile` or `mse` (from the histogram), see `clipping_range`.
            dtype: the integer type to quantize to.
            scheme: `sym` or `asym`.
            framework: the framework with the scale formula that `mse` uses.

        Raises:
            ArgumentError: unknown algorithm, dtype or scheme.
            CalibrationError: nothing was seen, or the algorithm needs a histogram and there is none.
        """
        histogram = self.histogram
        if histogram is None:
            if algorithm in ALGORITHMS and algorithm != "minmax":
                raise CalibrationError(
                    f"{self.name}: algorithm {algorithm!r} needs a histogram, which was not collected.\n"
                    "Collect with ActivationStatistics(..., histogram=True), or use 'minmax'."
                )
            histogram = Histogram()
        return clipping_range(
            histogram,
            self.minimum,
            self.maximum,
            algorithm=algorithm,
            dtype=dtype,
            scheme=scheme,
            framework=framework,
        )

    def copy(self) -> ActivationStatistics:
        """A snapshot in memory of its own: later updates of either do not change the other."""
        snapshot = ActivationStatistics(self.name, rows=self.rows, seed=self.seed)
        snapshot.__dict__.update(self.__dict__)
        snapshot._sample = _copied(self._sample)
        snapshot._channel_minimum = _copied(self._channel_minimum)
        snapshot._channel_maximum = _copied(self._channel_maximum)
        snapshot._channel_sum, snapshot._sum_rest = _copied(self._channel_sum), _copied(self._sum_rest)
        snapshot._generator = np.random.default_rng(self.seed)
        snapshot._generator.bit_generator.state = self._generator.bit_generator.state
        snapshot.histogram = None if self.histogram is None else self.histogram.copy()
        return snapshot

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What was seen, as NumPy arrays by name, and as plain values; `from_arrays` makes statistics of both."""
        arrays: dict[str, npt.NDArray[Any]] = {"keys": self._keys}
        named = {"sample": self._sample, "minimum": self._channel_minimum, "maximum": self._channel_maximum}
        arrays |= {name: to_float32(value) for name, value in named.items() if value is not None}
        if self._channel_sum is not None and self._sum_rest is not None:
            sums = {"sum": self._channel_sum, "rest": self._sum_rest}
            arrays |= {name: np.asarray(array_api_compat.to_device(value, "cpu")) for name, value in sums.items()}
        if self.histogram is not None:
            arrays["counts"] = self.histogram.counts
        values = {
            "name": self.name,
            "rows": self.rows,
            "seed": self.seed,
            "count": self.count,
            "counted": self._counted,
            "exponent": None if self.histogram is None else self.histogram.exponent,
        }
        return arrays, values

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        values: Mapping[str, Any],
        as_array: Callable[[npt.NDArray[Any]], AnyNamespaceArray] = lambda array: array,
    ) -> ActivationStatistics:
        """Inverse of `to_arrays`, over what `as_array` makes of them; for reading and merging, not for more data."""
        has_histogram = values["exponent"] is not None
        made = cls(str(values["name"]), rows=int(values["rows"]), seed=int(values["seed"]), histogram=has_histogram)
        made.count, made._counted = int(values["count"]), int(values["counted"])
        made._keys = arrays["keys"]
        known = {name: as_array(array) for name, array in arrays.items() if name not in ("keys", "counts")}
        made._sample = known.get("sample")
        made._channel_minimum, made._channel_maximum = known.get("minimum"), known.get("maximum")
        made._channel_sum, made._sum_rest = known.get("sum"), known.get("rest")
        if made.histogram is not None:
            made.histogram = Histogram.of(arrays["counts"], int(values["exponent"]))
        return made

    @property
    def channel_middle(self) -> AnyNamespaceArray:
        """The middle of each channel's range, float32 [C]."""
        # Halves first: the sum of two large values may leave float32.
        return self.channel_minimum / 2 + self.channel_maximum / 2

    def shifted(self, shift: AnyNamespaceArray) -> ActivationStatistics:
        """Those of the activation less a value for each channel [C]; without a histogram, which is of the tensor."""
        snapshot = self.copy()
        snapshot._channel_minimum = self.channel_minimum - shift
        snapshot._channel_maximum = self.channel_maximum - shift
        snapshot._channel_sum = self._seen(self._channel_sum) - shift * self._counted
        snapshot._sample = None if self._sample is None else self._sample - shift
        snapshot.histogram = None
        return snapshot

    def with_rows_of(self, other: ActivationStatistics) -> ActivationStatistics:
        """A snapshot with the sampled rows of `other`, whose values may lie outside the ranges."""
        snapshot = self.copy()
        snapshot._sample, snapshot._keys = _copied(other._sample), other._keys
        return snapshot

    def merge(self, other: ActivationStatistics) -> None:
        """Take in what `other` has seen, as if its data had been given to `update`; the sample stays uniform.

        Raises:
            CalibrationError: the numbers of channels or of sampled rows differ, or only one has a histogram.
        """
        if self.rows != other.rows:
            raise CalibrationError(
                f"{self.name}: cannot merge statistics that keep {self.rows} and {other.rows} rows: "
                "the result would not be a uniform sample."
            )
        if (self.histogram is None) != (other.histogram is None):
            raise CalibrationError(f"{self.name}: cannot merge statistics with and without a histogram.")
        if other.count == 0:
            return
        minimum, maximum = other.channel_minimum, other.channel_maximum
        xp = array_api_compat.array_namespace(minimum)
        if self._channel_minimum is None:
            self._channel_minimum, self._channel_maximum = minimum, maximum
        else:
            self._check(xp, minimum, maximum, tuple(minimum.shape))
            self._channel_minimum = xp.minimum(self._channel_minimum, minimum)
            self._channel_maximum = xp.maximum(self._channel_maximum, maximum)
        self._add(other._seen(other._channel_sum))
        self._add(other._seen(other._sum_rest))
        self.count += other.count
        self._counted += other._counted
        if other._sample is not None and self.rows > 0:
            self._sample_rows(other._sample, other._keys)
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    def _add(self, sums: AnyNamespaceArray) -> None:
        """Add to the sum per channel, and what that rounds away to the rest (Knuth's TwoSum)."""
        if self._channel_sum is None or self._sum_rest is None:
            self._channel_sum, self._sum_rest = sums, sums * 0
            return
        total = self._channel_sum + sums
        added = total - self._channel_sum
        self._sum_rest = self._sum_rest + ((self._channel_sum - (total - added)) + (sums - added))
        self._channel_sum = total

    def _sample_rows(self, x: AnyNamespaceArray, keys: npt.NDArray[np.float64]) -> None:
        """Keep the rows [..., channels] with the smallest keys; touches only rows that are kept."""
        kept = self._keys.size
        all_keys = np.concatenate([self._keys, keys])
        chosen = np.arange(all_keys.size)
        if all_keys.size > self.rows:
            chosen = np.sort(np.argpartition(all_keys, self.rows - 1)[: self.rows])
        new = chosen[chosen >= kept] - kept
        if new.size == 0:
            return
        xp = array_api_compat.array_namespace(x)
        device = array_api_compat.device(x)
        places = np.unravel_index(new, tuple(x.shape[:-1]))
        sample = xp.astype(x[tuple(xp.asarray(place, device=device) for place in places)], xp.float32)
        old = chosen[chosen < kept]
        if self._sample is not None and old.size > 0:
            sample = xp.concat([xp.take(self._sample, xp.asarray(old, device=device), axis=0), sample], axis=0)
        self._sample, self._keys = sample, all_keys[chosen]

    def _check(
        self, xp: object, minimum: AnyNamespaceArray, maximum: AnyNamespaceArray, shape: tuple[int, ...]
    ) -> None:
        if self._channel_minimum is not None and self._channel_minimum.shape != minimum.shape:
            raise CalibrationError(
                f"{self.name}: the activation has {minimum.shape[0]} channels, earlier batches had "
                f"{self._channel_minimum.shape[0]}. Statistics of one name must come from one tensor."
            )
        finite = np.isfinite(to_float32(minimum)) & np.isfinite(to_float32(maximum))
        if not finite.all():
            raise CalibrationError(
                f"{self.name}: NaN or infinity in the activation of shape {shape}, first in channel "
                f"{int(np.argmin(finite))}, after {self.count} tokens.\n"
                "The fp32 model itself produces it on this calibration batch: check the data and the weights before it."
            )

    def _seen(self, value: AnyNamespaceArray | None) -> AnyNamespaceArray:
        if value is None:
            raise CalibrationError(
                f"{self.name}: no activation was seen, so it has no range.\n"
                "The operator never ran during calibration: calibrate with data that reaches it, or leave it in fp32."
            )
        return value


def _copied(x: AnyNamespaceArray | None) -> AnyNamespaceArray | None:
    return None if x is None else array_api_compat.array_namespace(x).asarray(x, copy=True)
