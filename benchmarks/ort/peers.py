"""MiniLM-L6 through other quantizers of ONNX models: time to quantize, trials, cosine to fp32, latency.

    python benchmarks/ort/peers.py --peer-python peer_onc/bin/python [--workloads DIR]

Ours, onnxruntime.quantization's static and dynamic, and onnx-neural-compressor 1.0, which runs in an environment of its
own (see `benchmarks/peers/neural_compressor_onnx.py`). All calibrate on the same 100 sentences of 32 tokens and are
compared on the same others; a trial is a quantized model that was evaluated. Ours is tuned with the same score, to a
loss of 0.003. Latencies are timed in turn. Without `--peer-python` its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, models, quantizer
from benchmarks.ort.accuracy import Sentences, task_sentences
from inc_autotune import ort_ext

SHAPES = ((1, 32), (1, 128), (8, 128))
COLUMNS = ("quantizer", "wall s", "trials", "cosine", "lowest", *(f"{b}x{n}: times faster" for b, n in SHAPES))
SCRIPT = Path(__file__).resolve().parents[1] / "peers" / "neural_compressor_onnx.py"
UNSEEN = 360


@dataclass
class Result:
    """A session of a quantized model, and what it took to make it."""

    name: str
    session: onnxruntime.InferenceSession
    seconds: float | None = None
    trials: int | None = None


def joined(batches: list[models.Feed], count: int) -> models.Feed:
    return {name: np.concatenate([batch[name] for batch in batches])[:count] for name in models.INPUT_NAMES}


def ours(path: Path, sentences: Sentences, options: argparse.Namespace) -> Result:
    make_options = common.options_of(options.threads)
    expected = common.embeddings(common.file_session(path, options.threads), sentences.unseen)

    def score(session: onnxruntime.InferenceSession) -> float:
        return common.cosine(common.embeddings(session, sentences.unseen), expected)

    started = time.perf_counter()
    tuned = ort_ext.autotune(
        path,
        sentences.calibration,
        score,
        smoothquant_args=measuring.AUTO_ALPHA,
        accuracy_criterion={"absolute": 0.003},
        session_options=make_options,
        progress=False,
    )
    seconds = time.perf_counter() - started
    session = ort_ext.session(tuned, session_options=make_options)
    return Result("inc_autotune, alpha auto", session, seconds, len(tuned.tuning_result.trials))


def onnxruntime_results(path: Path, sentences: Sentences, options: argparse.Namespace) -> Iterator[Result]:
    static = quantizer.static(path, sentences.calibration, options.exports, ["MatMul"])
    yield Result("onnxruntime static", common.file_session(static.path, options.threads), static.seconds, 1)
    dynamic = quantizer.dynamic(path, options.exports)
    yield Result("onnxruntime dynamic", common.file_session(dynamic.path, options.threads), dynamic.seconds, 1)


def peer_results(path: Path, sentences: Sentences, options: argparse.Namespace) -> Iterator[Result]:
    data = options.exports / "peer_data.npz"
    parts = {"calibration": sentences.calibration, "unseen": sentences.unseen}
    arrays = {f"{part}.{name}": value for part, each in parts.items() for name, value in joined(each, UNSEEN).items()}
    np.savez(data, **arrays)
    command = [options.peer_python, str(SCRIPT), "--model", str(path), "--data", str(data)]
    printed = subprocess.run(
        [*command, "--output", str(options.exports)], check=True, capture_output=True, text=True, cwd=options.exports
    ).stdout
    for line in printed.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            session = common.file_session(Path(found["path"]), options.threads)
            yield Result(f"onnx-neural-compressor, {found['name']}", session, found["seconds"], found["trials"])


def main() -> None:
    parser = common.parser(__doc__, workloads="optional")
    parser.add_argument("--peer-python", help="the interpreter of an environment with onnx-neural-compressor")
    options = common.parse(parser)
    quantizer.silence()
    sentences = Sentences(models.sentences(100, 32), models.sentences(UNSEEN, 32, first=100))
    if options.workloads is not None:
        sentences = task_sentences(measuring.import_workloads(options.workloads))
    sentences.unseen = models.in_batches(joined(sentences.unseen, UNSEEN), 8)
    path = models.minilm(options.exports)
    results = [Result("fp32", common.file_session(path, options.threads)), ours(path, sentences, options)]
    results += onnxruntime_results(path, sentences, options)
    results += peer_results(path, sentences, options) if options.peer_python is not None else []
    rows: list[list[Any]] = []
    expected = common.embeddings(results[0].session, sentences.unseen)
    for each in results:
        cosines = (common.embeddings(each.session, sentences.unseen) * expected).sum(1)
        rows.append([each.name, each.seconds, each.trials, f"{cosines.mean():.5f}", f"{cosines.min():.5f}"])
    for batch, length in SHAPES:
        seconds = common.session_seconds([each.session for each in results], models.tokens(batch, length), options)
        for row, taken in zip(rows, seconds, strict=True):
            row.append(seconds[0] / taken)
    measuring.print_table(f"MiniLM-L6, {options.threads} thread, onnxruntime {onnxruntime.__version__}", COLUMNS, rows)


if __name__ == "__main__":
    main()
