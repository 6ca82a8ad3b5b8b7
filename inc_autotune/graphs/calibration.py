"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import CalibrationPass, calibration, model_fails
from inc_autotune.core.errors import DataError
from inc_autotune.core.quantization import SAMPLED_ROWS, ActivationStatistics
from inc_autotune.graphs.digest import digested
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.moments import MomentRows, Rows, moment_name
from inc_autotune.graphs.outputs import comparison_note
from inc_autotune.graphs.padding import comparable_outputs, real_positions


@dataclass(frozen=True)
class Calibration(calibration.Calibration[Feed]):
    """What one pass found.

    Args:
        infinite: names of the watched tensors that held NaN or infinity, and whose statistics are of the other rows.
        note: what the user should know of how candidates are compared; None: they are, by numbers that are no integers.
    """

    infinite: frozenset[str] = frozenset()
    note: str | None = None

    @classmethod
    def of(cls, found: calibration.Calibration[Feed], infinite: Iterable[str], note: str | None) -> Calibration:
        """The same calibration, with what graphs add to it."""
        parts = (found.snapshots, found.held_out, found.digest, found.moments, found.without_moment)
        return cls(*parts, infinite=frozenset(infinite), note=note)

    @cached_property  # asked for of every operator
    def unfit(self) -> Mapping[str, str]:
        """Of the watched tensors that should not become integers, the reason by name."""
        never = "never had an element in the calibration data, so it has no range"
        reasons = {name: f"{name!r} {never}" for name, each in self.snapshot().every.items() if each.count == 0}
        held = "holds NaN or infinity in the calibration data, which integers cannot"
        return reasons | {name: f"{name!r} {held}" for name in sorted(self.infinite)}


@dataclass(frozen=True)
class WatchedTensor:
    """A tensor inside the graph that statistics are collected of.

    Args:
        name: of the tensor.
        rows: whether rows of it are sampled, to score alphas and the means of rounded values.
        histogram: whether its values are counted.
        channel_axis: where its channels are; their number is the same in every batch. None: one range for the whole
            tensor, whose dimensions may all differ from batch to batch.
        moments: how it becomes rows whose second moments are collected, where these are wanted.
    """

    name: str
    rows: bool
    histogram: bool
    channel_axis: int | None = -1
    moments: Sequence[MomentRows] = ()


class Values(NamedTuple):
    """What one run of the fp32 model returned.

    Args:
        outputs: the model's own outputs, in order.
        watched: the values of the watched tensors, by name.
    """

    outputs: Sequence[Array]
    watched: Mapping[str, Array]


def calibrate(
    run: Callable[[Feed, int], Values],
    watched: Sequence[WatchedTensor],
    feeds: Iterable[Feed],
    sizes: Sequence[int],
    *,
    seed: int,
    argument: str,
    moments: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Calibration:
    """Run the fp32 model over the batches once.

    Rows with NaN or infinity, such as those of padding that the model masks later, are left out of the statistics.

    Args:
        run: the fp32 model, given a batch and the number of samples before it. Raises DataError if the model fails on
            the batch, see `batch_error`.
        watched: the tensors to collect statistics of.
        feeds: at most `max(sizes)` samples.
        sizes: sampling sizes, at each of which the statistics are kept. If the model fixes its batch size, a sampling
            size ends with the batch that reaches it.
        seed: of the sampled rows.
        argument: the user's argument for the data, for messages.
        moments: whether second moments of the watched tensors are wanted.
        shard: number of this process, and of how many, each of which runs the model on other batches; see `merged`.

    Raises:
        DataError: there is no batch, or the model fails on one.
    """

    def empty(seed: int) -> dict[str, ActivationStatistics]:
        return {
            tensor.name: ActivationStatistics(
                tensor.name, rows=SAMPLED_ROWS if tensor.rows else 0, seed=seed, histogram=tensor.histogram
            )
            for tensor in watched
        }

    digest = hashlib.sha256()
    number, count = shard
    infinite: set[str] = set()
    note: str | None = None
    # Each of two folds of each process samples rows by a seed of its own.
    calibrating: CalibrationPass[Feed] = CalibrationPass(
        empty, comparable_outputs, sizes, seed=seed + 2 * number, moments=moments
    )
    for feed in calibrating.held_out.cut(digested(feeds, digest), sizes):
        calibrating.begin(feed, counts=lambda index: index % count == number)
        if not calibrating.runs:
            calibrating.end(())
            continue
        values, real = run(feed, calibrating.samples), real_positions(feed)
        for tensor in watched:
            value = _tokens(values.watched[tensor.name], tensor.channel_axis)
            finite = np.isfinite(value)
            is_finite = bool(finite.all())
            if not is_finite:
                infinite.add(tensor.name)
                value = value[finite.all(axis=-1)]
            rows = real if real is not None and _is_of_tokens(value, tensor.channel_axis, real) else None
            calibrating.statistics[tensor.name].update(value, keep_rows=not calibrating.is_held_out, real=rows)
            if calibrating.moments is not None and is_finite:
                for each in tensor.moments:
                    is_usual = each == Rows()
                    name, whole = moment_name(tensor.name, each), values.watched[tensor.name]
                    each.update(calibrating.moments, name, whole, rows if is_usual else None)
        note = comparison_note(values.outputs)
        calibrating.end(values.outputs)
    return Calibration.of(calibrating.finish(digest.hexdigest(), argument), infinite, note)


def merged(parts: Sequence[Calibration]) -> Calibration:
    """What processes found that ran the model on parts of the same data, see `merged_calibration`.

    Raises:
        CalibrationError: they are of different data.
    """
    infinite = frozenset(name for each in parts for name in each.infinite)
    return Calibration.of(calibration.merged_calibration(parts), infinite, parts[0].note)


def _tokens(value: Array, channel_axis: int | None) -> Array:
    """A tensor with its channels last; a single channel where it has one range."""
    if channel_axis is None:
        return value.reshape(-1, 1)
    return value if channel_axis in (-1, value.ndim - 1) else np.moveaxis(value, channel_axis, -1)


def _is_of_tokens(value: Array, channel_axis: int | None, real: Array) -> bool:
    """Whether the first axes of a tensor are batch and sequence, and its last the channels."""
    return value.ndim > 2 and value.shape[:2] == real.shape and channel_axis in (-1, value.ndim - 1)


def batch_error(argument: str, feed: Feed, samples: int | None, error: Exception) -> DataError:
    """The error for a batch that the fp32 model fails on, see `model_fails`."""
    shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.inputs.items())
    return model_fails(argument, shapes, samples, error)
