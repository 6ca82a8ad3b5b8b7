"""Runs of the fp32 model, with tensors inside it among its outputs."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.graphs.calibration import Values, batch_error
from inc_autotune.graphs.feed import Feed


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


def runs(session: onnxruntime.InferenceSession, feed: Feed) -> bool:
    """Whether a model takes this feed; onnxruntime's own complaint about one that it does not take is not printed."""
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4
    try:
        session.run(None, dict(feed.inputs), quiet)
    except Exception:  # whatever onnxruntime raises
        return False
    return True


def run_fp32(
    session: onnxruntime.InferenceSession, feed: Feed, argument: str, samples: int | None = None
) -> list[Array]:
    """The outputs of the fp32 model.

    Args:
        session: of the model.
        feed: what the user gave.
        argument: the user's argument, for messages.
        samples: how many came before the batch, for messages.

    Raises:
        DataError: the model fails on it.
    """
    try:
        outputs: list[Array] = session.run(None, dict(feed.inputs))
    except Exception as error:  # whatever onnxruntime raises on inputs that are not the model's own
        raise batch_error(argument, feed, samples, error) from error
    return outputs
