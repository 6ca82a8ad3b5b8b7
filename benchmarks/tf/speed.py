"""Speed, accuracy and size of int8 models in TensorFlow, side by side with what else could be used.

    python benchmarks/tf/speed.py [--peer-python PYTHON]

Two Keras models with random weights, batch 8: a transformer (4 blocks, width 256, 128 tokens) and a CNN (11
convolutions, residuals, BatchNorm, one depthwise). Ours are tuned without evaluation on 64 samples, saved, and loaded
in a fresh process, where all forms are timed in turn. `SQNR` is that of the logits of 64 other samples to those of
TensorFlow in fp32; `size` is bytes of the SavedModel, or file, by bytes of the fp32 parameters. Goals: 2.2 times and
35 dB, 3 times and 40 dB, size 0.3.

`--peer-python` is that of an environment with tensorflow-cpu, tf2onnx and onnxruntime, for `peers/tf2onnx_ort.py`.
LiteRT and ONNX get the transformer with GELU spelled with Erf, as they have no Erfc; the function is the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, litert, models
from benchmarks.tf.common import BATCH, Array
from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db

SAMPLES = 64
COLUMNS = ("model", "form", "ms", "times faster", "SQNR dB", "size")
PEER = Path(__file__).resolve().parents[1] / "peers" / "tf2onnx_ort.py"

Row = dict[str, Any]
Form = tuple[Callable[[Array], Array], Callable[[], Any]]
"""A function from a batch to its outputs, and one that computes the same batch again, for timing."""


def prepare(name: str, options: argparse.Namespace) -> Path:
    """Write all forms of a model to a folder, with samples that were not used to make them."""
    folder: Path = options.exports.resolve() / name
    folder.mkdir(exist_ok=True)
    model = getattr(models, name)()
    calibration, unseen = (common.normal_inputs(model, SAMPLES, seed) for seed in (1, 2))
    np.save(folder / "calibration.npy", calibration)
    np.save(folder / "unseen.npy", unseen)
    source = common.export(model, folder / "fp32")
    tuned = tf_ext.autotune(
        source,
        calibration,
        smoothquant_args=measuring.AUTO_ALPHA,
        sampling_sizes=[SAMPLES],
        example_inputs=calibration[:BATCH],
        progress=False,
    )
    tf_ext.save(tuned, folder / "int8")
    twin = model
    if name == "transformer":
        twin = models.transformer(models.erf_gelu)
        twin.set_weights(model.get_weights())
    else:
        tf_ext.to_litert(tuned, calibration, folder / "to_litert.tflite")
    spelled = common.export(twin, folder / "for_peers")
    for form, given, integers in (("fp32", None, False), ("dynamic", None, True), ("full", calibration, True)):
        (folder / f"{form}.tflite").write_bytes(litert.convert(spelled, given, integers=integers))
    return folder


def forms(folder: Path, first: Array, options: argparse.Namespace) -> Iterator[tuple[str, Path, Form]]:
    """(name, file or SavedModel, form) of what a folder holds."""
    fp32, int8 = folder / "fp32", folder / "int8"
    yield "TensorFlow fp32", fp32, saved_model(fp32, first)
    yield "TensorFlow fp32, XLA", fp32, saved_model(fp32, first, jit_compile=True)
    yield "int8, this library", int8, saved_model(int8, first)
    names = {"fp32": "LiteRT fp32", "dynamic": "LiteRT dynamic int8", "full": "LiteRT full int8"}
    for file, name in {**names, "to_litert": "LiteRT, to_litert of this library"}.items():
        path = folder / f"{file}.tflite"
        if path.exists():
            yield name, path, litert.runner(path.read_bytes(), first.shape[1:], options.threads)


def saved_model(path: Path, first: Array, *, jit_compile: bool = False) -> Form:
    """The default signature of a SavedModel."""
    loaded = tf.saved_model.load(str(path))
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def compiled(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return loaded.signatures["serving_default"](**{name: batch})

    def run(batch: Any) -> Any:
        outputs = compiled(batch) if jit_compile else loaded.signatures["serving_default"](**{name: batch})
        return next(iter(outputs.values())).numpy()

    return lambda batch: run(tf.constant(batch)), partial(run, tf.constant(first))


def measure(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Time all forms in turn; for a process that did nothing else."""
    unseen = np.load(folder / "unseen.npy")
    named = list(forms(folder, unseen[:BATCH], options))
    outputs = [np.concatenate([run(batch) for batch in common.batches(unseen)]) for _, _, (run, _) in named]
    calls = [call for _, _, (_, call) in named]
    clock = common.clock(options.threads)
    seconds = measuring.interleaved(calls, options.repeat, least=0.15, patience=options.patience, clock=clock)
    return [
        {
            "form": name,
            "ms": 1e3 * taken,
            "times": seconds[0] / taken,
            "sqnr": None if name == "TensorFlow fp32" else signal_to_noise_db(outputs[0], output),
            "bytes": common.size(path),
        }
        for (name, path, _), output, taken in zip(named, outputs, seconds, strict=True)
    ]


def rows_of(command: list[str], folder: Path) -> list[Row]:
    """What a process printed in its last line; it runs in a folder, where some tools leave files."""
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder)
    found: list[Row] = json.loads(finished.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--model", choices=("transformer", "cnn"), action="append", help="repeatable; default: both")
    parser.add_argument("--peer-python", help="python of an environment with tf2onnx and onnxruntime")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = common.parse(parser)
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options)))
        return
    rows: list[list[Any]] = []
    for name in options.model or ("transformer", "cnn"):
        folder = prepare(name, options)
        given = ["--threads", str(options.threads), "--repeat", str(options.repeat)]
        patience = ["--patience", str(options.patience)]
        found = rows_of(
            [sys.executable, str(Path(__file__).resolve()), "--measure", str(folder), *given, *patience], folder
        )
        if options.peer_python:
            found += rows_of([options.peer_python, str(PEER), str(folder), *given], folder)
        parameters = 4 * getattr(models, name)().count_params()
        for row in found:
            rows.append([name, row["form"], row["ms"], row["times"], row["sqnr"], row["bytes"] / parameters])
    measuring.print_table(f"TensorFlow {tf.__version__}, {options.threads} thread, batch {BATCH}", COLUMNS, rows)


if __name__ == "__main__":
    main()
