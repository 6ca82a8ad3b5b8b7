"""Calibration samples kept apart, to compare candidates at the model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from math import ceil, prod
from typing import Generic, Protocol, TypeVar

from array_api_compat import array_namespace

from inc_autotune.core.arrays import AnyNamespaceArray

HELD_OUT_SAMPLES = 16
"""Samples whose outputs are compared with a candidate's."""

HELD_OUT_VALUES = 1 << 24
"""Samples are held out until their outputs have so many numbers, since every comparison runs all of them: a window of
256 tokens of SmolLM2-135M has 12.6 million. By two such windows, plans with everything in int8 stand in the order that
four give them, but for those whose errors differ by less than a seventh."""

HELD_OUT_BYTES = 256 << 20
"""The outputs that are kept take no more memory than this, whatever the model returns."""

LEAST_BATCHES = 4
"""One held-out batch, one for each fold, and one to spare."""

NOTHING_HELD_OUT = (
    "nothing could be held out: all calibration samples came in one batch that cannot be cut. Candidates were compared "
    "on samples that they were calibrated on, which flatters large alphas. Give several batches."
)
AnyBatch = TypeVar("AnyBatch", bound="Batch")


class Batch(Protocol):
    """What a model is run with, whatever the framework."""

    @property
    def size(self) -> int:
        """Number of samples."""

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs."""

    @property
    def divisible(self) -> bool:
        """Whether the batch can be cut into samples."""

    def slice(self: AnyBatch, start: int, stop: int) -> AnyBatch:
        """Samples `start` to `stop`; all samples if the batch is not divisible."""

    def copy(self: AnyBatch) -> AnyBatch:
        """The same inputs in memory of their own."""


@dataclass
class HeldOut(Generic[AnyBatch]):
    """Samples kept apart to compare candidates at the model's output.

    Every second batch is held out until there are enough samples, or enough numbers in their outputs. The rows of a
    held-out batch do not choose alphas.
    The first batch stands in until there is a second one.

    Args:
        comparable: takes a batch and the outputs of the fp32 model for it, as arrays of any framework, and returns
            the outputs that are compared; padding and integers, for instance, are not.
        batches: inputs of the samples kept.
        outputs: what the fp32 model returned for these batches and `comparable` left.
        stands_in: whether the samples are of the first batch, which is not held out.
        samples: how many are kept; several steps of one sample count once.
        first: the first samples of the first batch as it came, to measure speed on; set by `cut`.
    """

    comparable: Callable[[AnyBatch, Sequence[AnyNamespaceArray]], list[AnyNamespaceArray]]
    batches: list[AnyBatch] = field(default_factory=list)
    outputs: list[AnyNamespaceArray] = field(default_factory=list)
    stands_in: bool = False
    first: AnyBatch = field(init=False)
    samples: int = field(default=0, init=False)
    _room: int = field(default=HELD_OUT_SAMPLES, init=False)

    @property
    def notes(self) -> list[str]:
        """A note if the first batch stands in."""
        return [NOTHING_HELD_OUT] if self.stands_in else []

    def cut(self, batches: Iterable[AnyBatch], sizes: Sequence[int]) -> Iterator[AnyBatch]:
        """The batches to run, as the function `cut` makes them; keeps samples of the first batch as `first`."""
        left = iter(batches)
        first = next(left, None)
        if first is not None:
            self.first = first.slice(0, HELD_OUT_SAMPLES).copy()
            yield from cut(chain([first], left), sizes)

    def wants(self, index: int) -> bool:
        """Whether to hold out batch number `index`, counted from 0."""
        return index % 2 == 1 and (index == 1 or (self.samples < HELD_OUT_SAMPLES and self._values() < HELD_OUT_VALUES))

    def _values(self) -> int:
        return sum(prod(output.shape) for output in self.outputs)

    def add(
        self,
        index: int,
        batch: AnyBatch,
        outputs: Sequence[AnyNamespaceArray],
        samples: int | None = None,
        *,
        step: int = 0,
    ) -> None:
        """Keep the first samples of a batch and the outputs for them, if there is room.

        Args:
            index: number of the batch.
            batch: inputs, all of them or the first `HELD_OUT_SAMPLES` samples.
            outputs: what the model returned for the whole batch; where the first dimension is the number of samples,
                the outputs are cut along it.
            samples: how many the whole batch has; None: as many as `batch`.
            step: greater than 0 for a later step of the samples of batch number `index`, see `CalibrationPass.begin`.
        """
        if index == 1 and not step:
            self.batches, self.outputs, self.samples = [], [], 0
        if not step:
            self._room = HELD_OUT_SAMPLES - self.samples
        self.stands_in = index == 0
        samples = batch.size if samples is None else samples
        kept, compared = self._first(batch, outputs, samples, self._room)
        if not step and kept.size > 1:
            # The sample that makes the numbers enough is the last one.
            of_each = sum(prod(output.shape) for output in compared) / kept.size
            enough = max(ceil((HELD_OUT_VALUES - self._values()) / max(of_each, 1)), 1)
            if enough < kept.size:
                self._room = enough
                kept, compared = self._first(batch, outputs, samples, enough)
        taken = sum(output.nbytes for output in (*self.outputs, *compared))
        if step:  # inputs of a decoder hold all that came before
            taken += sum(each.nbytes for each in (*self.batches, kept))
        if not self.batches or taken <= HELD_OUT_BYTES:
            self.batches.append(kept)
            self.outputs += [array_namespace(output).asarray(output, copy=True) for output in compared]
            self.samples += 0 if step else kept.size

    def _first(
        self, batch: AnyBatch, outputs: Sequence[AnyNamespaceArray], samples: int, count: int
    ) -> tuple[AnyBatch, list[AnyNamespaceArray]]:
        """At most so many samples of a batch, and of its outputs those of them that are compared."""
        kept = batch.slice(0, count).copy()
        if kept.size < samples:
            outputs = [output[: kept.size] if output.shape[:1] == (samples,) else output for output in outputs]
        return kept, self.comparable(kept, outputs)


def cut(batches: Iterable[AnyBatch], sizes: Sequence[int], least: int = LEAST_BATCHES) -> Iterator[AnyBatch]:
    """The same samples in batches that end at every sampling size and number at least `least`, if they can be cut.

    With fewer than `least` batches too few samples could be held out, or none, and the others not be split into two
    folds. With `least` or more the batches stay as they are, since every batch costs a forward pass.
    """
    left = iter(batches)
    # Copied, since a loader may fill the same memory again.
    first = [batch.copy() for batch in islice(left, least)]
    pieces = ceil(least / max(len(first), 1))
    seen = 0
    for batch in chain(first, left):
        ends = {batch.size}
        if batch.divisible:
            ends |= {size - seen for size in sizes if seen < size < seen + batch.size}
            if pieces > 1:
                ends |= set(range(0, batch.size, min(HELD_OUT_SAMPLES, ceil(batch.size / pieces)))) - {0}
        for start, stop in pairwise([0, *sorted(ends)]):
            yield batch.slice(start, stop)
        seen += batch.size
