"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.core.data.held_out import HeldOut
from inc_autotune.core.errors import DataError
from inc_autotune.core.quantization.split_statistics import Snapshot, SplitStatistics
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.graphs.digest import digested
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import comparable_outputs

SAMPLED_ROWS = 128
"""Rows that score an alpha: with exact ranges 64 to 128 choose as well as all of them."""


@dataclass(frozen=True)
class WatchedTensor:
    """A tensor inside the graph whose values are of interest.

    Args:
        name: of the tensor.
        channel_axis: where its channels are.
        rows: whether rows of it are sampled, to score alphas with.
        histogram: whether its values are counted.
    """

    name: str
    channel_axis: int
    rows: bool
    histogram: bool


@dataclass(frozen=True)
class Calibration:
    """What one pass found.

    Args:
        snapshots: statistics by sampling size; of all samples under their number, where there are fewer than asked.
        held_out: samples to compare candidates with.
        samples: how many were read.
        digest: a hash of their inputs.
    """

    snapshots: Mapping[int, Snapshot]
    held_out: HeldOut[Feed]
    samples: int
    digest: str

    def snapshot(self, size: int) -> Snapshot:
        """After this many samples, or all where there were fewer."""
        return self.snapshots[min(size, max(self.snapshots))]


def calibrate(
    session: onnxruntime.InferenceSession,
    own_outputs: int,
    watched: Sequence[WatchedTensor],
    feeds: Iterable[Feed],
    sizes: Sequence[int],
    *,
    seed: int,
) -> Calibration:
    """Run the fp32 model over the batches once.

    Args:
        session: of the fp32 model, with the watched tensors as outputs behind its own, where they are none of those.
        own_outputs: how many outputs the model itself has.
        watched: the tensors to collect statistics of.
        feeds: at most `max(sizes)` samples.
        sizes: sampling sizes, at each of which the statistics are kept. Where the model fixes its batch size,
            a sampling size ends with the batch that reaches it.
        seed: of the sampled rows.

    Raises:
        DataError: there is no batch, or the model fails on one.
        CalibrationError: an activation is not finite.
    """

    def empty(seed: int) -> dict[str, ActivationStatistics]:
        return {
            each.name: ActivationStatistics(
                each.name, rows=SAMPLED_ROWS if each.rows else 0, seed=seed, histogram=each.histogram
            )
            for each in watched
        }

    statistics, digest = SplitStatistics(empty, seed), hashlib.sha256()
    names = [output.name for output in session.get_outputs()]
    snapshots: dict[int, Snapshot] = {}
    held_out = HeldOut(comparable_outputs)
    samples = 0
    for index, feed in enumerate(held_out.cut(digested(feeds, digest), sizes)):
        outputs = run_fp32(session, feed, "calib_dataloader", f", which comes after {samples} samples")
        values = dict(zip(names, outputs, strict=True))
        is_held_out = held_out.wants(index)
        current = statistics.batch(held_out=is_held_out)
        for tensor in watched:
            current[tensor.name].update(values[tensor.name], tensor.channel_axis, keep_rows=not is_held_out)
        if index == 0 or is_held_out:
            held_out.add(index, feed, outputs[:own_outputs])
        reached = {size for size in sizes if samples < size <= samples + feed.size}
        samples += feed.size
        if reached:
            snapshots |= dict.fromkeys(reached, statistics.snapshot())
    if samples == 0:
        raise DataError("calib_dataloader is empty: it yielded no sample. Give at least one batch.")
    snapshots.setdefault(samples, statistics.snapshot())
    return Calibration(snapshots, held_out, samples, digest.hexdigest())


def runs(session: onnxruntime.InferenceSession, feed: Feed) -> bool:
    """Whether a model takes this feed; onnxruntime's own complaint about one that it does not take is not printed."""
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4
    try:
        session.run(None, dict(feed.inputs), quiet)
    except Exception:  # whatever onnxruntime raises
        return False
    return True


def run_fp32(session: onnxruntime.InferenceSession, feed: Feed, argument: str, place: str = "") -> list[Array]:
    """The outputs of the fp32 model.

    Args:
        session: of the model.
        feed: what the user gave.
        argument: the user's argument, for messages.
        place: of the batch in it, for messages.

    Raises:
        DataError: the model fails on it.
    """
    try:
        outputs: list[Array] = session.run(None, dict(feed.inputs))
    except Exception as error:  # whatever onnxruntime raises on inputs that are not the model's own
        shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.inputs.items())
        raise DataError(
            f"{argument}: the model fails on the batch {shapes}{place}: {type(error).__name__}: {error}\n"
            "Give all batches the form and the feature shapes that the model takes."
        ) from error
    return outputs
