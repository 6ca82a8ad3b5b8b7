"""Whether a model computes what it did before it was converted, to newer operators or to float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError
from inc_autotune.graphs import Feed
from inc_autotune.ort_ext.calibration.collect import run_fp32
from inc_autotune.ort_ext.graph import GraphModel
from inc_autotune.ort_ext.model import SessionOptions, SourceModel, make_session, opset_version

COMPARED_SAMPLES = 8

LARGEST_DIFFERENCE = 1e-3
"""Of float outputs, relative to their largest value; what the converter of onnx leaves is below 1e-6."""


def conversion_note(
    source: SourceModel, session: onnxruntime.InferenceSession, feed: Feed, options: SessionOptions
) -> str | None:
    """Compare a model that was converted, to newer operators or to float32, with the model as it was given.

    Args:
        source: the model.
        session: of the converted model, its own outputs first.
        feed: inputs that the model takes.
        options: of the session that the original model gets.

    Returns:
        What was converted, and how much that changed; None where nothing was.

    Raises:
        ModelError: the float outputs differ by more than rounding does, or than two runs of a random model; those of
            half precision may differ by any amount, since sums in it are what float32 does better.
        DataError: the model does not take the feed.
    """
    if source.original is None:
        return None
    feed = feed.take(COMPARED_SAMPLES)
    what = _what_was_done(source, source.original)
    try:
        original = make_session(source.original, None, options)
    except ModelError:  # a function of another opset, or products in bfloat16, which onnxruntime does not convert
        return f"{what}; onnxruntime cannot load the model as it was, to compare"
    expected, again, actual = (run_fp32(each, feed, "calib_dataloader", 0) for each in (original, original, session))
    difference, noise = _difference(expected, actual[: len(expected)]), _difference(expected, again)
    if source.half_type is None and difference > max(LARGEST_DIFFERENCE, 2 * noise):
        before, after = opset_version(source.original.proto), opset_version(source.proto)
        raise ModelError(
            f"model: converted from opset {before} to {after} by onnx {onnx.__version__} it computes something else: "
            f"outputs differ by {difference:.2g} of their largest value. Export it again with opset_version=18."
        )
    return f"{what}; outputs differ by {difference:.1g} of their largest value"


def _what_was_done(source: SourceModel, original: GraphModel) -> str:
    before, after = opset_version(original.proto), opset_version(source.proto)
    done = []
    if before != after or source.half_type is None:
        what = "functions in the model were" if before == after else f"the model, of opset {before}, was"
        done.append(f"{what} converted to opset {after}")
    if source.half_type is not None:
        done.append(
            f"the model computed in {source.half_type}, and computes in float32 now, as most kernels for the CPU do; "
            "its inputs, its outputs and the weights that stay keep their types"
        )
    return "; ".join(done)


def _difference(expected: list[Array], actual: list[Array]) -> float:
    """The largest one of all float outputs, relative to the largest value of each."""
    floats = [
        (one, other)
        for one, other in zip(expected, actual, strict=True)
        if isinstance(one, np.ndarray) and one.dtype.kind == "f"
    ]
    return max((_relative(one, other) for one, other in floats), default=0.0)


def _relative(expected: Array, actual: Array) -> float:
    finite = np.isfinite(expected)
    if expected.shape != actual.shape or not np.array_equal(finite, np.isfinite(actual)):
        return float("inf")
    expected, actual = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
    return float(np.abs(expected - actual).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))
