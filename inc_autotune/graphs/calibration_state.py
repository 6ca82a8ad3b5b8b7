"""What calibration found, as arrays by name and plain values, so that other processes need not calibrate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import HeldOut
from inc_autotune.core.quantization import ActivationStatistics, SecondMoment, Snapshot, Snapshots, Statistics
from inc_autotune.graphs.calibration import Calibration
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import comparable_outputs

_KINDS = "biuf"
"""NumPy's kinds of arrays that a safetensors file holds."""


class UnportableError(Exception):
    """An array of text, or of a type that no file holds, is among what calibration found."""


class Packed:
    """Arrays by a number, which plain values refer to."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def add(self, array: Array) -> str:
        """Take in an array; returns what refers to it.

        Raises:
            UnportableError: no file holds such an array.
        """
        if array.dtype.kind not in _KINDS:
            raise UnportableError(f"an array of {array.dtype}")
        name = str(len(self.arrays))
        self.arrays[name] = array
        return name


def pack_feed(feed: Feed | None, packed: Packed) -> dict[str, Any] | None:
    """A feed as plain values, whose arrays are packed; None for None."""
    if feed is None:
        return None
    inputs = {name: packed.add(value) for name, value in feed.inputs.items()}
    return {"inputs": inputs, "size": feed.size, "batched": sorted(feed.batched), "single": feed.single}


def unpack_feed(values: Mapping[str, Any] | None, arrays: Mapping[str, Array]) -> Feed | None:
    """Inverse of `pack_feed`."""
    if values is None:
        return None
    inputs = {name: arrays[key] for name, key in values["inputs"].items()}
    return Feed(inputs, int(values["size"]), frozenset(values["batched"]), bool(values["single"]))


def pack_calibration(calibration: Calibration, packed: Packed) -> dict[str, Any]:
    """A calibration as plain values, whose arrays are packed.

    Raises:
        UnportableError: no file holds what was kept apart, such as text.
    """
    held_out = calibration.held_out
    return {
        "samples": calibration.samples,
        "snapshots": {
            str(size): [_pack_statistics(part, packed) for part in each.parts]
            for size, each in calibration.snapshots.collected.items()
        },
        "held out": {
            "batches": [pack_feed(each, packed) for each in held_out.batches],
            "outputs": [packed.add(output) for output in held_out.outputs],
            "stands in": held_out.stands_in,
            "samples": held_out.samples,
            "first": pack_feed(held_out.first, packed),
        },
        "digest": calibration.digest,
        "moments": {
            name: {
                "columns": each.columns,
                "groups": each.groups,
                "rows": each.rows,
                "sums": [packed.add(block) for block in each.sums],
            }
            for name, each in calibration.moments.items()
        },
        "without moment": sorted(calibration.without_moment),
        "infinite": sorted(calibration.infinite),
        "note": calibration.note,
    }


def unpack_calibration(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Calibration:
    """Inverse of `pack_calibration`."""
    collected = {
        int(size): Snapshot.of(*(_unpack_statistics(part, arrays) for part in parts))
        for size, parts in values["snapshots"].items()
    }
    apart = values["held out"]
    held_out: HeldOut[Feed] = HeldOut(comparable_outputs)
    held_out.batches = [feed for each in apart["batches"] if (feed := unpack_feed(each, arrays)) is not None]
    held_out.outputs = [arrays[key] for key in apart["outputs"]]
    held_out.stands_in, held_out.samples = bool(apart["stands in"]), int(apart["samples"])
    first = unpack_feed(apart["first"], arrays)
    assert first is not None
    held_out.first = first
    return Calibration(
        Snapshots.of(int(values["samples"]), collected),
        held_out,
        str(values["digest"]),
        {
            name: SecondMoment.of(each["columns"], each["groups"], each["rows"], [arrays[key] for key in each["sums"]])
            for name, each in values["moments"].items()
        },
        frozenset(values["without moment"]),
        infinite=frozenset(values["infinite"]),
        note=values["note"],
    )


def _pack_statistics(statistics: Statistics, packed: Packed) -> dict[str, Any]:
    found = {}
    for key, each in statistics.items():
        arrays, values = each.to_arrays()
        found[key] = {"arrays": {name: packed.add(array) for name, array in arrays.items()}, "values": values}
    return found


def _unpack_statistics(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, ActivationStatistics]:
    return {
        key: ActivationStatistics.from_arrays(
            {name: arrays[number] for name, number in each["arrays"].items()}, each["values"]
        )
        for key, each in values.items()
    }
