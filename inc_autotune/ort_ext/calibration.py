"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnxruntime

from inc_autotune.core.calibration import ActivationStatistics
from inc_autotune.core.errors import DataError
from inc_autotune.core.feed import Feed
from inc_autotune.core.held_out import HeldOut, cut
from inc_autotune.ort_ext.graph import AnyArray

SAMPLED_ROWS = 128
"""Rows that score an alpha: with exact ranges 64 to 128 choose as well as all of them."""

Statistics = Mapping[str, ActivationStatistics]
"""By name of the tensor."""


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
    """

    snapshots: Mapping[int, Statistics]
    held_out: HeldOut
    samples: int


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
    statistics = {
        each.name: ActivationStatistics(
            each.name, rows=SAMPLED_ROWS if each.rows else 0, seed=seed, histogram=each.histogram
        )
        for each in watched
    }
    names = [output.name for output in session.get_outputs()]
    snapshots: dict[int, Statistics] = {}
    held_out = HeldOut()
    samples = 0
    for index, feed in enumerate(cut(feeds, sizes)):
        outputs = _run(session, feed, samples)
        values = dict(zip(names, outputs, strict=True))
        keep_rows = not held_out.wants(index)
        for tensor in watched:
            statistics[tensor.name].update(values[tensor.name], tensor.channel_axis, keep_rows)
        if index == 0 or not keep_rows:
            held_out.add(index, feed, outputs[:own_outputs])
        reached = {size for size in sizes if samples < size <= samples + feed.size}
        samples += feed.size
        if reached:
            snapshot = {name: each.copy() for name, each in statistics.items()}
            snapshots |= dict.fromkeys(reached, snapshot)
    if samples == 0:
        raise DataError("calib_dataloader is empty: it yielded no sample. Give at least one batch.")
    snapshots.setdefault(samples, statistics)
    return Calibration(snapshots, held_out, samples)


def _run(session: onnxruntime.InferenceSession, feed: Feed, samples: int) -> list[AnyArray]:
    try:
        outputs: list[AnyArray] = session.run(None, dict(feed.inputs))
    except Exception as error:  # whatever onnxruntime raises on inputs that are not the model's own
        shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.inputs.items())
        raise DataError(
            f"calib_dataloader: the model fails on the batch {shapes}, which comes after {samples} samples: "
            f"{type(error).__name__}: {error}\nGive all batches the form and the feature shapes of the first one."
        ) from error
    return outputs
