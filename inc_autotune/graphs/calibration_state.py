"""What calibration of a graph found, as arrays by name and plain values, so that other processes need not calibrate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import HeldOut, Packed, calibration_state
from inc_autotune.graphs.calibration import Calibration
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import comparable_outputs


def pack_feed(feed: Feed, packed: Packed) -> dict[str, Any]:
    """A feed as plain values, whose arrays are packed.

    Raises:
        UnportableError: no file holds one of them.
    """
    inputs = {name: packed.add(value) for name, value in feed.inputs.items()}
    return {"inputs": inputs, "size": feed.size, "batched": sorted(feed.batched), "single": feed.single}


def unpack_feed(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Feed:
    """Inverse of `pack_feed`."""
    inputs = {name: arrays[key] for name, key in values["inputs"].items()}
    return Feed(inputs, int(values["size"]), frozenset(values["batched"]), bool(values["single"]))


def pack_calibration(calibration: Calibration, packed: Packed) -> dict[str, Any]:
    """A calibration as plain values, whose arrays are packed.

    Raises:
        UnportableError: no file holds what was kept apart, such as text.
    """
    found = calibration_state.pack_calibration(calibration, packed, partial(pack_feed, packed=packed), packed.add)
    first = pack_feed(calibration.held_out.first, packed)
    return {**found, "first": first, "infinite": sorted(calibration.infinite), "note": calibration.note}


def unpack_calibration(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Calibration:
    """Inverse of `pack_calibration`."""
    held_out: HeldOut[Feed] = HeldOut(comparable_outputs)
    held_out.first = unpack_feed(values["first"], arrays)
    found = calibration_state.unpack_calibration(
        values, arrays, held_out, partial(unpack_feed, arrays=arrays), arrays.__getitem__
    )
    return Calibration.of(found, values["infinite"], values["note"])
