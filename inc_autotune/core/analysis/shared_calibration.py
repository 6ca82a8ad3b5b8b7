"""Calibration that one process does for others: what it found, in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import locked, read_arrays, write_arrays, writing
from inc_autotune.core.run_context import RunContext, running_in

logger = logging.getLogger(__name__)

_ABOUT = "calibration"


State = tuple[Mapping[str, Array], Mapping[str, Any]]
"""Arrays by name, and plain values that refer to them."""


@runtime_checkable
class SupportsSharedCalibration(Protocol):
    """An adaptor whose calibration can be handed to other processes."""

    def calibration_state(self) -> State | None:
        """What `calibrate` found, as arrays by name, and as plain values that refer to them.

        Returns:
            None where that cannot be written to a file, as where inputs are texts.
        """

    def take_calibration(self, model: Any, states: Sequence[State]) -> int:
        """Be as after `calibrate`, by what `calibration_state` of other adaptors for the same model returned.

        Args:
            model: the fp32 model.
            states: one, or those of all shards of the data in their order.

        Returns:
            The number of samples that were read.

        Raises:
            CalibrationError: the shards are of different data.
        """


def calibrated(
    adaptor: Adaptor, model: Any, dataloader: Any, sizes: Sequence[int], seed: int, context: RunContext
) -> int:
    """Calibrate, or take what other processes have found.

    Args:
        adaptor: of the model.
        model: the fp32 model.
        dataloader: calibration data.
        sizes: numbers of samples.
        seed: of everything random.
        context: says whether there are others, and what they do.

    Returns:
        The number of samples that were read.

    Raises:
        ArgumentError: a file of the context is of another model or call, or damaged; or shards are asked for that
            cannot be merged.
    """
    file = context.calibration
    if not isinstance(adaptor, SupportsSharedCalibration):
        if context.parts:
            raise ArgumentError(
                f"shards=True: what calibration finds with this adaptor for {adaptor.framework} cannot be merged "
                "exactly. Leave shards out: each worker calibrates on all data."
            )
        return adaptor.calibrate(model, dataloader, sizes, seed)
    if file is None:
        return adaptor.calibrate(model, dataloader, sizes, seed)
    call = {"model": adaptor.fingerprint(model), "sizes": list(sizes), "seed": seed}

    def calibrate() -> tuple[int, State | None]:
        samples = adaptor.calibrate(model, dataloader, sizes, seed)
        return samples, adaptor.calibration_state()

    with locked(_room(file)):
        if file.exists():
            return adaptor.take_calibration(model, [_read(file, call | _shard(context))])
        samples, state = (
            _calibrated_together(adaptor, model, calibrate, call, context) if context.parts else calibrate()
        )
        if state is None:
            logger.info("what calibration found cannot be written to a file: every process calibrates")
        else:
            _write(file, state, call | _shard(context))
        return samples


def _calibrated_together(
    adaptor: SupportsSharedCalibration,
    model: Any,
    calibrate: Callable[[], tuple[int, State | None]],
    call: Mapping[str, Any],
    context: RunContext,
) -> tuple[int, State | None]:
    """Calibrate a shard, while others do theirs, and merge all; the shards of those who fail are done here."""
    count = len(context.parts) + 1
    alone = RunContext(calibrates_only=True)
    contexts = [replace(alone, calibration=file, shard=(n, count)) for n, file in enumerate(context.parts, start=1)]
    wait = context.calibrating(contexts) if context.calibrating is not None else lambda: None
    states: list[State] = []
    for each in (replace(alone, shard=(0, count)), *contexts):
        file = each.calibration
        if file is not None and file.exists():
            states.append(_read(file, {**call, **_shard(each)}))
            continue
        with running_in(each):
            _, state = calibrate()
        if state is None:
            wait()
            with running_in(RunContext()):
                return calibrate()
        states.append(state)
        if file is None:
            wait()
    return adaptor.take_calibration(model, states), adaptor.calibration_state()


def _shard(context: RunContext) -> dict[str, Any]:
    return {"shard": list(context.shard)}


def _room(file: Path) -> Path:
    """A folder to lock while a file is made; the file's own is locked by whoever writes there."""
    room = file.with_name(f"{file.name}.lock")
    with writing(room, "calibration"):
        room.mkdir(parents=True, exist_ok=True)
    return room


def _write(file: Path, state: State, call: Mapping[str, Any]) -> None:
    arrays, values = state
    write_arrays(file, arrays, {_ABOUT: json.dumps({"call": call, "found": values})}, "calibration")


def _read(file: Path, call: Mapping[str, Any]) -> State:
    try:
        arrays, about = read_arrays(file)
        document = json.loads(about[_ABOUT])
        changed = ", ".join(name for name, value in call.items() if document["call"].get(name) != value)
        found: Mapping[str, Any] = document["found"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(f"calibration={str(file)!r}: is damaged: {error}. Remove it.") from error
    if changed:
        raise ArgumentError(f"calibration={str(file)!r}: is of another run, with another {changed}. Remove it.")
    return arrays, found
