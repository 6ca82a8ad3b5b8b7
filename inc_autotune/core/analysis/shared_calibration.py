"""Calibration that one process does for others: what it found, in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import locked, read_arrays, write_arrays, writing

logger = logging.getLogger(__name__)

_ABOUT = "calibration"


@runtime_checkable
class SupportsSharedCalibration(Protocol):
    """An adaptor whose calibration can be handed to other processes."""

    def calibration_state(self) -> tuple[Mapping[str, Array], Mapping[str, Any]] | None:
        """What `calibrate` found, as arrays by name, and as plain values that refer to them.

        Returns:
            None where that cannot be written to a file, as where inputs are texts.
        """

    def take_calibration(self, model: Any, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> int:
        """Be as after `calibrate`, by what `calibration_state` of another adaptor for the same model returned.

        Returns:
            The number of samples that were read.
        """


def calibrated(
    adaptor: Adaptor, model: Any, dataloader: Any, sizes: Sequence[int], seed: int, file: Path | None
) -> int:
    """Calibrate, or take what another process has found.

    Args:
        adaptor: of the model.
        model: the fp32 model.
        dataloader: calibration data.
        sizes: numbers of samples.
        seed: of everything random.
        file: where the first process writes what it found; the others wait for it. None: calibrate.

    Returns:
        The number of samples that were read.

    Raises:
        ArgumentError: the file is of another model or call, or damaged.
    """
    if file is None or not isinstance(adaptor, SupportsSharedCalibration):
        if file is not None:
            logger.info("the statistics of %s cannot travel: every process calibrates", adaptor.framework)
        return adaptor.calibrate(model, dataloader, sizes, seed)
    call = {"model": adaptor.fingerprint(model), "sizes": list(sizes), "seed": seed}
    with locked(_room(file)):
        if file.exists():
            return _read(adaptor, model, file, call)
        samples = adaptor.calibrate(model, dataloader, sizes, seed)
        state = adaptor.calibration_state()
        if state is None:
            logger.info("what calibration found cannot be written to a file: every process calibrates")
        else:
            arrays, values = state
            write_arrays(file, arrays, {_ABOUT: json.dumps({"call": call, "found": values})}, "calibration")
        return samples


def _room(file: Path) -> Path:
    """A folder to lock while a file is made; the file's own is locked by whoever writes there."""
    room = file.with_name(f"{file.name}.lock")
    with writing(room, "calibration"):
        room.mkdir(parents=True, exist_ok=True)
    return room


def _read(adaptor: SupportsSharedCalibration, model: Any, file: Path, call: Mapping[str, Any]) -> int:
    try:
        arrays, about = read_arrays(file)
        document = json.loads(about[_ABOUT])
        if document["call"] == call:
            return adaptor.take_calibration(model, arrays, document["found"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ArgumentError(f"calibration={str(file)!r}: is damaged: {error}. Remove it.") from error
    changed = ", ".join(name for name, value in call.items() if document["call"].get(name) != value)
    raise ArgumentError(f"calibration={str(file)!r}: is of another run, with another {changed}. Remove it.")
