"""What LiteRT's own converter makes of a model, and how its files are run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.tf.common import BATCH, Array, batches


def convert(saved_model: Path, calibration: Array | None = None, *, integers: bool = True) -> bytes:
    """Convert a SavedModel.

    Args:
        saved_model: its directory.
        calibration: samples to calibrate activations on; None: weights are integers, and activations become so while
            it runs.
        integers: False: all stays in float32.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration is not None:

        def representative() -> Iterator[list[Array]]:
            return ([batch] for batch in batches(calibration, 1))

        converter.representative_dataset = representative
    content: bytes = converter.convert()
    return content


def runner(content: bytes, shape: tuple[int, ...], threads: int) -> tuple[Callable[[Array], Array], Callable[[], Any]]:
    """Two functions: from a batch to its outputs, and one that runs what was given last again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite moves to a package of its own
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, (BATCH, *shape))
    interpreter.allocate_tensors()
    result = interpreter.get_output_details()[0]["index"]

    def run(batch: Array) -> Array:
        interpreter.set_tensor(given, batch)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run, interpreter.invoke
