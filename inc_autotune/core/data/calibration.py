"""One pass over the calibration data: which batch serves what, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.data.held_out import HELD_OUT_SAMPLES, AnyBatch, HeldOut
from inc_autotune.core.data.loaders import no_sample
from inc_autotune.core.errors import CalibrationError
from inc_autotune.core.quantization import InputMoments, SecondMoment, Snapshot, Snapshots, SplitStatistics, Statistics


@dataclass(frozen=True)
class Calibration(Generic[AnyBatch]):
    """What one pass found.

    Args:
        snapshots: statistics by sampling size.
        held_out: samples to compare candidates with.
        digest: a hash of all inputs: equal on every machine, unlike statistics, which rounding decides.
        moments: second moments of inputs by name, of the samples that are not held out, whatever the sampling size.
        without_moment: names of the inputs whose second moments would take more memory than all may.
    """

    snapshots: Snapshots
    held_out: HeldOut[AnyBatch]
    digest: str
    moments: Mapping[str, SecondMoment] = field(default_factory=dict)
    without_moment: frozenset[str] = frozenset()

    @property
    def samples(self) -> int:
        """How many were read."""
        return self.snapshots.samples

    def snapshot(self, size: int | None = None) -> Snapshot:
        """After this many samples, see `Snapshots.at`; None: after all."""
        return self.snapshots.at(self.samples if size is None else size)


def merged_calibration(parts: Sequence[Calibration[AnyBatch]]) -> Calibration[AnyBatch]:
    """What processes found that ran the model on parts of the same data, as if one had run it on all.

    Ranges, counts, means, and what is held out are exactly the same; sampled rows are another uniform sample, and
    second moments, of other rows where a batch has more than are taken, the same up to the rounding of their sums.

    Args:
        parts: in the order of their numbers.

    Raises:
        CalibrationError: they are of different data.
    """
    first = parts[0]
    if len({each.digest for each in parts}) > 1:
        raise CalibrationError(
            "the workers were given different calibration data, so that what they found cannot be merged. The data "
            "must be the same, in the same order, in every process: fix the seed of a loader that shuffles."
        )
    refused = frozenset(name for each in parts for name in each.without_moment)
    moments: dict[str, SecondMoment] = {}
    for part in parts:
        for name, moment in part.moments.items():
            if name not in refused:
                known = moments.setdefault(name, SecondMoment(moment.columns, moment.groups))
                known.merge(moment)
    snapshots = Snapshots.merged([each.snapshots for each in parts])
    return Calibration(snapshots, first.held_out, first.digest, moments, refused)


class CalibrationPass(Generic[AnyBatch]):
    """The state of a pass: every batch goes through `begin`, the model, and `end`.

    Args:
        empty: makes statistics of every activation, see `SplitStatistics`.
        comparable: the outputs that are compared, see `HeldOut`.
        sizes: sampling sizes, at each of which the statistics are kept.
        seed: of the rows sampled in the first fold; the next number is that of the second fold.
        moments: whether second moments will be asked for.

    Attributes:
        moments: which the batch is to update; None where nobody asks for them, the batch is held out, or the largest
            sampling size was reached before it.
    """

    def __init__(
        self,
        empty: Callable[[int], Statistics],
        comparable: Callable[[AnyBatch, Sequence[AnyNamespaceArray]], list[AnyNamespaceArray]],
        sizes: Sequence[int],
        *,
        seed: int,
        moments: bool = False,
    ) -> None:
        self._most = max(sizes)
        self._all_moments = InputMoments(seed) if moments else None
        self.held_out: HeldOut[AnyBatch] = HeldOut(comparable)
        self.is_held_out = False
        self._empty, self._seed = empty, seed
        self._counts = True
        self.statistics: Statistics = {}
        self._split = SplitStatistics(empty, (seed, seed + 1))
        self._snapshots = Snapshots(sizes)
        self._batches = 0
        self._size = 0
        self._step = 0
        self._unfinished: int | None = None
        self._compared: AnyBatch | None = None

    @property
    def samples(self) -> int:
        """How many samples the batches had whose pass has ended."""
        return self._snapshots.samples + (self._unfinished or 0)

    @property
    def moments(self) -> InputMoments | None:
        wanted = self._counts and not self.is_held_out and self._snapshots.samples < self._most
        return self._all_moments if wanted else None

    def watch(self, empty: Callable[[int], Statistics]) -> None:
        """Collect statistics of more activations from now on; those of known ones stay.

        Args:
            empty: makes them, see `SplitStatistics`.
        """
        self._split.watch(empty)
        self.statistics = self._split.current

    @property
    def runs(self) -> bool:
        """Whether the model has to run on the batch that has begun: it counts, or is compared."""
        return self._counts or self._compared is not None

    def begin(
        self, batch: AnyBatch, *, continues: bool = False, counts: Callable[[int], bool] = lambda _: True
    ) -> None:
        """To be called before the model runs on a batch.

        Sets `statistics`, which the batch is to update, and `is_held_out`: then no rows are to be sampled.

        Args:
            batch: inputs.
            continues: the batch holds no new samples but one more step of the last ones, as when a decoder goes on. It
                shares their fate, and is compared if it is step 1, 2, 4, 8 ... of them.
            counts: whether the statistics of a batch of this number, from 0, are wanted; if not, another process has
                them, and `runs` says whether the model has to run at all.
        """
        self._size = batch.size
        if continues:
            self._step += 1
        else:
            self._finish_samples()
            self._step = 0
            self.is_held_out = self.held_out.wants(self._batches)
            self.statistics = self._split.batch(held_out=self.is_held_out)
            self._counts = counts(self._batches)
        if not self._counts:
            self.statistics = self._empty(self._seed)
        # Copied now, since the model may write into its inputs. The first batch stands in until one is held out.
        compared = (self.is_held_out or self._batches == 0) and self._step & (self._step - 1) == 0
        self._compared = batch.slice(0, HELD_OUT_SAMPLES).copy() if compared else None

    def end(self, outputs: Sequence[AnyNamespaceArray]) -> None:
        """To be called after the model ran on a batch, with the outputs for it."""
        if self._compared is not None:
            self.held_out.add(self._batches, self._compared, outputs, self._size, step=self._step)
        self._split.compact()
        self.statistics = self._split.current
        if not self._step:
            self._unfinished = self._size

    def _finish_samples(self) -> None:
        """All steps of the last samples have been made."""
        if self._unfinished is not None:
            self._batches += 1
            self._snapshots.advance(self._unfinished, self._split)
            self._unfinished = None

    def finish(self, digest: str, argument: str) -> Calibration[AnyBatch]:
        """What the pass found.

        Args:
            digest: a hash of all inputs.
            argument: name of the data's argument, for messages.

        Raises:
            DataError: there was no sample.
        """
        if self.samples == 0:
            raise no_sample(argument)
        self._finish_samples()
        self._snapshots.finish(self._split)
        moments = InputMoments(0) if self._all_moments is None else self._all_moments
        return Calibration(self._snapshots, self.held_out, digest, moments.found, frozenset(moments.refused))
