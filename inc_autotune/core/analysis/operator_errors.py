"""How far each operator of a quantized model is from that of the fp32 model, batch after batch, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from inc_autotune.core.analysis.output_error import LARGEST_OUTPUT
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.quantization import decibels

MOST_BYTES = 1 << 28
"""Of the values that are held at once; where a batch has more, it is run several times."""

BINS = 60
WORST_CHANNELS = 5
_MARGIN = 0.25
"""By how much of its width the range of a histogram exceeds that of the first batch."""


@dataclass(frozen=True)
class ComparedOperator:
    """An operator that both models have.

    Args:
        name: as in rules.
        type: as in rules.
        form: what it is in the quantized model, such as `int8 static`.
        channel_axis: of its output; None: its channels are not told apart.
        calibrated: smallest and largest value of its input that its integers stand for, after smoothing; None unless it
            is static.
        smoothing: scale by which its input is divided first, over the last axis; None where it is not smoothed.
        shift: what is taken from its input before that, over the last axis; None where nothing is.
    """

    name: str
    type: str
    form: str
    channel_axis: int | None = None
    calibrated: tuple[float, float] | None = None
    smoothing: FloatArray | None = None
    shift: FloatArray | None = None


@dataclass(frozen=True)
class Histogram:
    """How often values of an operator's output occur.

    Args:
        edges: of the bins, one more than there are; what lies outside counts in the first and the last.
        fp32: count in each bin, of the fp32 model.
        quantized: likewise, of the quantized one.
    """

    edges: tuple[float, ...]
    fp32: tuple[int, ...]
    quantized: tuple[int, ...]


@dataclass(frozen=True)
class OperatorError:
    """How far one operator's output is from that of the fp32 model.

    Args:
        name, type, form: see `ComparedOperator`.
        sqnr: decibels of the fp32 output over the difference, everything before it quantized too; infinite where both
            are equal.
        cosine: of the angle between both outputs.
        alone: as `sqnr`, with the fp32 model's input: what this operator alone adds. None where it was not computed.
        observed: smallest and largest value of its input in the fp32 model, after smoothing; None where not seen.
        calibrated: see `ComparedOperator`.
        saturated: share of the values of its input that lie outside the calibrated range; None where there is none.
        worst_channels: (channel, decibels) of its output, the worst first; empty where they are not told apart.
        histogram: of its output.
    """

    name: str
    type: str
    form: str
    sqnr: float
    cosine: float
    alone: float | None = None
    observed: tuple[float, float] | None = None
    calibrated: tuple[float, float] | None = None
    saturated: float | None = None
    worst_channels: tuple[tuple[int, float], ...] = ()
    histogram: Histogram | None = None

    @property
    def is_quantized(self) -> bool:
        return self.form not in ("", "fp32")


class Recorder:
    """Takes the values of operators, and keeps sums of them.

    Attributes:
        real: where the tokens of the batch at hand are real, bool [batch, sequence]; what is elsewhere in values with
            these first dimensions is padding, whose errors mean nothing. None: no padding is known.
    """

    def __init__(self, operators: Iterable[ComparedOperator]) -> None:
        self._sums = {each.name: _Sums(each) for each in operators}
        self.real: Array | None = None

    def add_input(self, name: str, value: Array) -> None:
        """What an operator reads in the fp32 model."""
        self._sums[name].add_input(self._without_padding(value))

    def add_alone(self, name: str, expected: Array, actual: Array) -> None:
        """The fp32 operator's output, and that of the quantized one for the same input."""
        self._sums[name].add_alone(*map(self._without_padding, (expected, actual)))

    def add_output(self, name: str, expected: Array, actual: Array) -> None:
        """The outputs of an operator in both models."""
        self._sums[name].add_output(*map(self._without_padding, (expected, actual)))

    def _without_padding(self, value: Array) -> Array:
        return value if self.real is None or value.shape[:2] != self.real.shape else value[self.real]

    def errors(self) -> tuple[OperatorError, ...]:
        """Of all operators whose outputs were seen."""
        return tuple(each.error() for each in self._sums.values() if each.seen)

    @property
    def missed(self) -> tuple[str, ...]:
        """Operators of which nothing comparable was seen."""
        return tuple(name for name, each in self._sums.items() if not each.seen)


class SupportsOperatorErrors(Protocol):
    """A pair of models of one framework."""

    operators: Sequence[ComparedOperator]

    def sizes(self, item: Any) -> Mapping[str, int]:
        """About how many bytes the values of each operator take for one batch."""

    def record(self, item: Any, names: Sequence[str], recorder: Recorder) -> None:
        """Run both models on a batch, and record the values of some operators."""


def operator_errors(pair: SupportsOperatorErrors, items: Iterable[Any], most_bytes: int = MOST_BYTES) -> Recorder:
    """Compare all operators of two models on some data.

    Args:
        pair: of the models.
        items: batches, read once.
        most_bytes: that the values of one batch may take; where they take more, it is run for some operators at a time.
    """
    recorder = Recorder(pair.operators)
    groups: list[list[str]] | None = None
    for item in items:
        if groups is None:
            groups = _groups(pair.sizes(item), [each.name for each in pair.operators], most_bytes)
        for names in groups:
            pair.record(item, names, recorder)
    return recorder


def _groups(sizes: Mapping[str, int], names: Sequence[str], most_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = []
    total = 0
    for name in names:
        size = sizes.get(name, 0)
        if not groups or total + size > most_bytes:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += size
    return groups


@dataclass
class _Sums:
    operator: ComparedOperator
    seen: bool = False
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0
    alone_signal: float = 0.0
    alone_noise: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    outside: int = 0
    inputs: int = 0
    channels: tuple[Array, Array] | None = None
    edges: Array | None = None
    counts: list[Array] = field(default_factory=list)

    def add_input(self, value: Array) -> None:
        if value.dtype.kind != "f" or not value.size:
            return
        if self.operator.shift is not None:
            value = value - self.operator.shift
        if self.operator.smoothing is not None:
            value = value / self.operator.smoothing
        self.lowest = min(self.lowest, float(value.min()))
        self.highest = max(self.highest, float(value.max()))
        if self.operator.calibrated is not None:
            low, high = self.operator.calibrated
            slack = 1e-6 * (high - low)
            self.outside += int(((value < low - slack) | (value > high + slack)).sum())
            self.inputs += value.size

    def add_alone(self, expected: Array, actual: Array) -> None:
        pair = _comparable(expected, actual)
        if pair is not None:
            self.alone_signal += float(np.vdot(pair[0], pair[0]))
            difference = pair[1] - pair[0]
            self.alone_noise += float(np.vdot(difference, difference))

    def add_output(self, expected: Array, actual: Array) -> None:
        pair = _comparable(expected, actual)
        if pair is None:
            return
        self.seen = True
        first, second = pair
        difference = second - first
        self.signal += float(np.vdot(first, first))
        self.power += float(np.vdot(second, second))
        self.product += float(np.vdot(first, second))
        self.noise += float(np.vdot(difference, difference))
        axis = self.operator.channel_axis
        if axis is not None and first.ndim > 1:
            others = tuple(each for each in range(first.ndim) if each != axis % first.ndim)
            sums = (first**2).sum(others), (difference**2).sum(others)
            old = self.channels
            if old is None or old[0].shape == sums[0].shape:
                self.channels = sums if old is None else (old[0] + sums[0], old[1] + sums[1])
        self._count(first, second)

    def _count(self, first: Array, second: Array) -> None:
        if self.edges is None:
            low, high = float(first.min()), float(first.max())
            margin = _MARGIN * (high - low) or max(abs(low), 1.0)
            self.edges = np.linspace(low - margin, high + margin, BINS + 1)
            self.counts = [np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)]
        for counts, values in zip(self.counts, (first, second), strict=True):
            inside = np.clip(values, self.edges[0], self.edges[-1])
            counts += np.histogram(inside, self.edges)[0]

    def error(self) -> OperatorError:
        operator = self.operator
        norms = math.sqrt(self.signal * self.power)
        observed = (self.lowest, self.highest) if self.lowest <= self.highest else None
        return OperatorError(
            operator.name,
            operator.type,
            operator.form,
            sqnr=decibels(self.signal, self.noise),
            cosine=min(1.0, self.product / norms) if norms else float(self.noise == 0),
            alone=decibels(self.alone_signal, self.alone_noise) if self.alone_signal else None,
            observed=observed,
            calibrated=operator.calibrated,
            saturated=self.outside / self.inputs if self.inputs else None,
            worst_channels=self._worst(),
            histogram=None
            if self.edges is None
            else Histogram(tuple(self.edges.tolist()), tuple(self.counts[0].tolist()), tuple(self.counts[1].tolist())),
        )

    def _worst(self) -> tuple[tuple[int, float], ...]:
        if self.channels is None:
            return ()
        errors = [
            (index, decibels(float(signal), float(noise)))
            for index, (signal, noise) in enumerate(zip(*self.channels, strict=True))
            if signal > 0  # of a dead channel there is no ratio
        ]
        return tuple(sorted(errors, key=lambda each: each[1])[:WORST_CHANNELS])


def _comparable(expected: Array, actual: Array) -> tuple[Array, Array] | None:
    """Both as float64, without what means "masked out"; None where they are no numbers, or of other shapes."""
    if expected.dtype.kind != "f" or expected.shape != actual.shape or not expected.size:
        return None
    first, second = expected.astype(np.float64), actual.astype(np.float64)
    kept = np.abs(first) <= LARGEST_OUTPUT
    if not kept.all():
        first, second = np.where(kept, first, 0), np.where(kept, second, 0)
    return first, second
