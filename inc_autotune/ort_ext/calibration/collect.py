"""Runs of the fp32 model, with tensors inside it among its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import Feed, Values, batch_error


def watching(session: onnxruntime.InferenceSession, own_outputs: int) -> Callable[[Feed, int], Values]:
    """A session as `calibrate` runs it.

    Args:
        session: of the fp32 model, with the watched tensors as outputs behind its own, unless they are among those.
        own_outputs: how many outputs the model itself has.
    """
    names = [output.name for output in session.get_outputs()]

    def run(feed: Feed, samples: int) -> Values:
        outputs = run_fp32(session, feed, "calib_dataloader", samples)
        return Values(outputs[:own_outputs], dict(zip(names, outputs, strict=True)))

    return run


def outputs_or_none(session: onnxruntime.InferenceSession, own_outputs: int, feed: Feed) -> list[Any] | None:
    """The model's own outputs for a feed; None where it does not take it, without onnxruntime's printed complaint.

    Args:
        session: as in `watching`.
        own_outputs: as in `watching`.
        feed: inputs that the user may not have given like that.
    """
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4
    names = [output.name for output in session.get_outputs()[:own_outputs]]
    try:
        outputs: list[Any] = session.run(names, dict(feed.inputs), quiet)
    except Exception:  # whatever onnxruntime raises
        return None
    return outputs


def run_fp32(
    session: onnxruntime.InferenceSession,
    feed: Feed,
    argument: str,
    samples: int | None = None,
    names: Sequence[str] | None = None,
) -> list[Array]:
    """The outputs of the fp32 model.

    Args:
        session: of the model.
        feed: what the user gave.
        argument: the user's argument, for messages.
        samples: how many came before the batch, for messages.
        names: of the outputs; None: all.

    Raises:
        DataError: the model fails on it.
    """
    try:
        outputs: list[Array] = session.run(names, dict(feed.inputs))
    except Exception as error:  # whatever onnxruntime raises on inputs that are not the model's own
        raise batch_error(argument, feed, samples, error) from error
    return outputs
