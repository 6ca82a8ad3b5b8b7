"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inc_autotune.core.data.held_out import HeldOut
from inc_autotune.core.errors import DataError
from inc_autotune.core.quantization.split_statistics import Snapshot, SplitStatistics
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.graphs.digest import digested
from inc_autotune.graphs.feed import Array, Feed
from inc_autotune.graphs.padding import comparable_outputs

SAMPLED_ROWS = 128
"""Rows that score an alpha: with exact ranges 64 to 128 choose as well as all of them."""


@dataclass(frozen=True)
class WatchedTensor:
    """A tensor inside the graph that statistics are collected of.

    Args:
        name: of the tensor.
        rows: whether rows of it are sampled, to score alphas with.
        histogram: whether its values are counted.
        channel_axis: where its channels are.
    """

    name: str
    rows: bool
    histogram: bool
    channel_axis: int = -1


class Values(NamedTuple):
    """What one run of the fp32 model returned.

    Args:
        outputs: the model's own outputs, in order.
        watched: the values of the watched tensors, by name.
    """

    outputs: Sequence[Array]
    watched: Mapping[str, Array]


@dataclass(frozen=True)
class Calibration:
    """What one pass found.

    Args:
        snapshots: statistics by sampling size; of all samples under their number, if there were fewer than asked for.
        held_out: samples to compare candidates with.
        samples: how many were read.
        digest: a hash of their inputs.
    """

    snapshots: Mapping[int, Snapshot]
    held_out: HeldOut[Feed]
    samples: int
    digest: str

    def snapshot(self, size: int) -> Snapshot:
        """The statistics after `size` samples: the first snapshot that has seen so many, else that of all samples."""
        return self.snapshots[min((seen for seen in self.snapshots if seen >= size), default=max(self.snapshots))]


def calibrate(
    run: Callable[[Feed, str], Values],
    watched: Sequence[WatchedTensor],
    feeds: Iterable[Feed],
    sizes: Sequence[int],
    *,
    seed: int,
    argument: str,
) -> Calibration:
    """Run the fp32 model over the batches once.

    Args:
        run: the fp32 model, given a batch and words that say where in the data the batch stands. Raises DataError if
            the model fails on the batch, see `batch_error`.
        watched: the tensors to collect statistics of.
        feeds: at most `max(sizes)` samples.
        sizes: sampling sizes, at each of which the statistics are kept. If the model fixes its batch size, a sampling
            size ends with the batch that reaches it.
        seed: of the sampled rows.
        argument: the user's argument for the data, for messages.

    Raises:
        DataError: there is no batch, or the model fails on one.
        CalibrationError: an activation is not finite.
    """

    def empty(seed: int) -> dict[str, ActivationStatistics]:
        return {
            tensor.name: ActivationStatistics(
                tensor.name, rows=SAMPLED_ROWS if tensor.rows else 0, seed=seed, histogram=tensor.histogram
            )
            for tensor in watched
        }

    statistics, digest = SplitStatistics(empty, seed), hashlib.sha256()
    snapshots: dict[int, Snapshot] = {}
    held_out = HeldOut(comparable_outputs)
    samples = 0
    for index, feed in enumerate(held_out.cut(digested(feeds, digest), sizes)):
        values = run(feed, f", which comes after {samples} samples")
        is_held_out = held_out.wants(index)
        current = statistics.batch(held_out=is_held_out)
        for tensor in watched:
            current[tensor.name].update(values.watched[tensor.name], tensor.channel_axis, keep_rows=not is_held_out)
        if index == 0 or is_held_out:
            held_out.add(index, feed, values.outputs)
        reached = {size for size in sizes if samples < size <= samples + feed.size}
        samples += feed.size
        if reached:
            snapshots |= dict.fromkeys(reached, statistics.snapshot())
    if samples == 0:
        raise DataError(f"{argument} is empty: it yielded no sample. Give at least one batch.")
    snapshots.setdefault(samples, statistics.snapshot())
    return Calibration(snapshots, held_out, samples, digest.hexdigest())


def batch_error(argument: str, feed: Feed, place: str, error: Exception) -> DataError:
    """The error for a batch that the fp32 model fails on.

    Args:
        argument: the user's argument that the batch is from.
        feed: the batch.
        place: where in the data it stands.
        error: what the framework said.
    """
    shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.inputs.items())
    return DataError(
        f"{argument}: the model fails on the batch {shapes}{place}: {type(error).__name__}: {error}\n"
        "Give all batches the form and the feature shapes that the model takes."
    )
