"""What the ONNX Runtime benchmarks share: threads, sessions and scores."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks import measuring
from benchmarks.ort.models import Feed
from benchmarks.torch import common as torch_common
from benchmarks.torch.common import count_cpu_seconds_in_phases as count_cpu_seconds_in_phases
from benchmarks.torch.common import seconds as seconds

TURN_SECONDS = 0.1


def parser(description: str | None, *, repeat: int = 15, workloads: str | None = None) -> argparse.ArgumentParser:
    """`measuring.parser` with a folder that keeps exported models."""
    result = measuring.parser(description, repeat=repeat, workloads=workloads)
    text = "folder that keeps the exported models for the next run; default: a temporary one"
    result.add_argument("--exports", type=Path, help=text)
    return result


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, set torch's number of threads, and make the folder for exports."""
    options = torch_common.parse(arguments)
    if options.exports is None:
        options.exports = Path(tempfile.mkdtemp(prefix="ort_benchmarks_"))
    options.exports.mkdir(parents=True, exist_ok=True)
    return options


# Sessions


def options_of(threads: int) -> Callable[[], onnxruntime.SessionOptions]:
    """A function that makes options for so many threads."""

    def make() -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return options

    return make


def file_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), options_of(threads)(), providers=["CPUExecutionProvider"])


def session_seconds(
    sessions: Sequence[onnxruntime.InferenceSession], feed: Feed, options: argparse.Namespace
) -> list[float]:
    """Seconds of the fastest run of each, `repeat` times in turn for at least `TURN_SECONDS`.

    A session has the caches to itself for a whole turn, as a deployed one has. The fastest run counts: other jobs on
    the machine can only make a run slower, integer kernels more so, since they wait for memory more.
    """
    fastest = [float("inf")] * len(sessions)
    for _ in range(options.repeat):
        for index, session in enumerate(sessions):
            session.run(None, feed)
            ending = time.monotonic() + TURN_SECONDS
            while True:
                started = seconds()
                session.run(None, feed)
                fastest[index] = min(fastest[index], seconds() - started)
                if time.monotonic() >= ending:
                    break
    return fastest


# Scores


def embeddings(session: onnxruntime.InferenceSession, batches: Sequence[Feed]) -> np.ndarray:
    """Mean of the hidden states of real tokens, of length 1: [sentences, features]."""
    found = []
    for batch in batches:
        mask = batch["attention_mask"][..., None]
        mean = (session.run(None, batch)[0] * mask).sum(1) / mask.sum(1)
        found.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(found)


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean cosine of embeddings of length 1."""
    return float((found * expected).sum(1).mean())


def output_cosine(session: onnxruntime.InferenceSession, fp32: onnxruntime.InferenceSession, feed: Feed) -> float:
    """Cosine of the first outputs, row by row, on average."""
    found, expected = (each.run(None, feed)[0] for each in (session, fp32))
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((found * expected).sum(-1) / lengths).mean())
