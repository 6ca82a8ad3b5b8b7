"""What the TensorFlow benchmarks share: threads, clock, exported models and data."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks import measuring

Array = NDArray[Any]

BATCH = 8


def parser(description: str | None, *, repeat: int = 15) -> argparse.ArgumentParser:
    """`measuring.parser` with a folder for what is written."""
    result = measuring.parser(description, repeat=repeat, quiet=True)
    text = "folder that keeps what is written for a look at it; default: a temporary one"
    result.add_argument("--exports", type=Path, help=text)
    return result


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, set TensorFlow's number of threads, and make the folder."""
    options = arguments.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if options.exports is None:
        options.exports = Path(tempfile.mkdtemp(prefix="tf_benchmarks_"))
    options.exports.mkdir(parents=True, exist_ok=True)
    return options


def clock(threads: int) -> Callable[[], float]:
    """CPU seconds of this process, whose threads take turns; wall seconds where several compute at once."""
    return time.process_time if threads == 1 else time.perf_counter


def export(model: Any, directory: Path) -> Path:
    """Write a Keras model as a SavedModel."""
    model.export(directory, verbose=False)
    return directory


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def normal_inputs(model: Any, samples: int, seed: int) -> Array:
    """Random inputs of a model with one input."""
    shape = (samples, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batches(inputs: Array, batch: int = BATCH) -> Iterator[Array]:
    """The same samples in batches."""
    return (inputs[start : start + batch] for start in range(0, len(inputs), batch))
