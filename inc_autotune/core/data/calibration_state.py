"""What calibration found, as arrays by name and plain values, so that other processes need not calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inc_autotune.core.arrays import AnyNamespaceArray, Array
from inc_autotune.core.data.calibration import Calibration
from inc_autotune.core.data.held_out import AnyBatch, HeldOut
from inc_autotune.core.quantization import ActivationStatistics, SecondMoment, Snapshot, Snapshots, Statistics

_KINDS = "biuf"
"""NumPy's kinds of arrays that a safetensors file holds."""


class UnportableError(Exception):
    """Something that no file of arrays holds, such as text, is among what calibration found."""


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


def pack_calibration(
    calibration: Calibration[AnyBatch],
    packed: Packed,
    pack_batch: Callable[[AnyBatch], Any],
    pack_array: Callable[[AnyNamespaceArray], Any],
) -> dict[str, Any]:
    """A calibration as plain values, whose arrays are packed.

    Args:
        calibration: what one pass found.
        packed: takes the arrays in.
        pack_batch: a batch that is held out as plain values.
        pack_array: an output of the model, or a sum of a second moment, as plain values.

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
            "batches": [pack_batch(each) for each in held_out.batches],
            "outputs": [pack_array(output) for output in held_out.outputs],
            "stands in": held_out.stands_in,
            "samples": held_out.samples,
        },
        "digest": calibration.digest,
        "moments": {
            name: {
                "columns": each.columns,
                "groups": each.groups,
                "rows": each.rows,
                "sums": [pack_array(block) for block in each.sums],
                "total": None if each.total is None else pack_array(each.total),
            }
            for name, each in calibration.moments.items()
        },
        "without moment": sorted(calibration.without_moment),
    }


def unpack_calibration(
    values: Mapping[str, Any],
    arrays: Mapping[str, Array],
    held_out: HeldOut[AnyBatch],
    unpack_batch: Callable[[Any], AnyBatch],
    unpack_array: Callable[[Any], AnyNamespaceArray],
    as_array: Callable[[Array], AnyNamespaceArray] = lambda array: array,
) -> Calibration[AnyBatch]:
    """Inverse of `pack_calibration`.

    Args:
        values: what it returned.
        arrays: that it packed.
        held_out: an empty one, which is filled.
        unpack_batch: inverse of `pack_batch`.
        unpack_array: inverse of `pack_array`.
        as_array: the arrays of statistics in the framework's namespace.
    """
    collected = {
        int(size): Snapshot.of(*(_unpack_statistics(part, arrays, as_array) for part in parts))
        for size, parts in values["snapshots"].items()
    }
    apart = values["held out"]
    held_out.batches = [unpack_batch(each) for each in apart["batches"]]
    held_out.outputs = [unpack_array(each) for each in apart["outputs"]]
    held_out.stands_in, held_out.samples = bool(apart["stands in"]), int(apart["samples"])
    return Calibration(
        Snapshots.of(int(values["samples"]), collected),
        held_out,
        str(values["digest"]),
        {
            name: SecondMoment.of(
                each["columns"],
                each["groups"],
                each["rows"],
                list(map(unpack_array, each["sums"])),
                None if each["total"] is None else unpack_array(each["total"]),
            )
            for name, each in values["moments"].items()
        },
        frozenset(values["without moment"]),
    )


def _pack_statistics(statistics: Statistics, packed: Packed) -> dict[str, Any]:
    found = {}
    for key, each in statistics.items():
        arrays, values = each.to_arrays()
        found[key] = {"arrays": {name: packed.add(array) for name, array in arrays.items()}, "values": values}
    return found


def _unpack_statistics(
    values: Mapping[str, Any], arrays: Mapping[str, Array], as_array: Callable[[Array], AnyNamespaceArray]
) -> dict[str, ActivationStatistics]:
    return {
        key: ActivationStatistics.from_arrays(
            {name: arrays[number] for name, number in each["arrays"].items()}, each["values"], as_array
        )
        for key, each in values.items()
    }
