"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from inc_autotune.core.arrays import Array
from inc_autotune.core.data.held_out import HeldOut
from inc_autotune.core.errors import DataError
from inc_autotune.core.quantization.split_statistics import Snapshot, SplitStatistics
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.graphs.digest import digested
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import comparable_outputs
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription
from inc_autotune.tf_ext.model.signatures import SignatureCallable

SAMPLED_ROWS = 128
"""Rows that score an alpha: with exact ranges 64 to 128 choose as well as all of them."""


@dataclass(frozen=True)
class WatchedTensor:
    """A tensor inside the graph whose values are of interest; its channels are its last axis.

    Attributes:
        name: of the tensor, as in a GraphDef.
        rows: whether rows of it are sampled, to score alphas with.
        histogram: whether its values are counted.
    """

    name: str
    rows: bool
    histogram: bool


@dataclass(frozen=True)
class Calibration:
    """What one pass found.

    Attributes:
        snapshots: by sampling size; of all samples under their number, where there are fewer than asked.
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
        return self.snapshots[size if size in self.snapshots else max(self.snapshots)]


def calibrate(
    signature: SignatureGraph,
    function: SignatureCallable,
    watched: Sequence[WatchedTensor],
    feeds: Iterable[Feed],
    sizes: Sequence[int],
    *,
    seed: int,
) -> Calibration:
    """Run the fp32 model over the batches once.

    Args:
        signature: of the fp32 model.
        function: what `watching` made of it.
        watched: the tensors to collect statistics of.
        feeds: at most `max(sizes)` samples.
        sizes: sampling sizes, at each of which the statistics are kept. Where the model fixes its batch size,
            a sampling size ends with the batch that reaches it.
        seed: of the sampled rows.

    Raises:
        DataError: there is no batch, or the model fails on one.
        CalibrationError: an activation is not finite.
    """
    statistics, digest = SplitStatistics(lambda seed: _empty(watched, seed), seed), hashlib.sha256()
    snapshots: dict[int, Snapshot] = {}
    held_out = HeldOut(comparable_outputs)
    samples = 0
    for index, feed in enumerate(held_out.cut(digested(feeds, digest), sizes)):
        outputs = _run(function, feed, samples)
        is_held_out = held_out.wants(index)
        for name, each in statistics.batch(held_out=is_held_out).items():
            each.update(outputs[_key(name)], keep_rows=not is_held_out)
        if index == 0 or is_held_out:
            held_out.add(index, feed, [outputs[each.name] for each in signature.outputs])
        reached = {size for size in sizes if samples < size <= samples + feed.size}
        samples += feed.size
        if reached:
            snapshots |= dict.fromkeys(reached, statistics.snapshot())
    if samples == 0:
        raise DataError("calib_dataset is empty: it yielded no sample. Give at least one batch.")
    snapshots.setdefault(samples, statistics.snapshot())
    return Calibration(snapshots, held_out, samples, digest.hexdigest())


def _empty(watched: Sequence[WatchedTensor], seed: int) -> dict[str, ActivationStatistics]:
    return {
        each.name: ActivationStatistics(
            each.name, rows=SAMPLED_ROWS if each.rows else 0, seed=seed, histogram=each.histogram
        )
        for each in watched
    }


def run_inside(signature: SignatureGraph, tensors: Sequence[str], feed: Feed) -> Mapping[str, Array]:
    """What float32 tensors inside a signature are for some inputs."""
    outputs = watching(signature, tensors)(**feed.inputs)
    return {tensor: outputs[_key(tensor)].numpy() for tensor in tensors}


def watching(signature: SignatureGraph, tensors: Sequence[str]) -> SignatureCallable:
    """The signature with tensors inside it among its outputs."""
    extra = (TensorDescription(_key(each), tf.float32, None, each if ":" in each else f"{each}:0") for each in tensors)
    variables = {name: tf.Variable(value, trainable=False) for name, value in signature.weights.items()}
    return SignatureCallable(replace(signature, outputs=(*signature.outputs, *extra)), variables)


def runs(function: SignatureCallable, feed: Feed) -> bool:
    """Whether a signature takes this feed."""
    try:
        function(**feed.inputs)
    except tf.errors.OpError:
        return False
    return True


def _key(tensor: str) -> str:
    """A name among the outputs that no output of a signature has."""
    return f"inside {tensor}"


def _run(function: SignatureCallable, feed: Feed, samples: int) -> Mapping[str, Array]:
    try:
        return {name: value.numpy() for name, value in function(**feed.inputs).items()}
    except tf.errors.OpError as error:
        shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.inputs.items())
        raise DataError(
            f"calib_dataset: the model fails on the batch {shapes}, which comes after {samples} samples: "
            f"{type(error).__name__}: {error}\nGive all batches the form and the feature shapes of the first one."
        ) from error
