"""Convolutional nets in ONNX Runtime: int8 models of ours and of onnxruntime's own quantizer.

    python benchmarks/ort/cnn.py [--batch 8]

The nets have random weights, see `cnn_models.py`. onnxruntime's quantizer is given the model after its own
preprocessing, which folds batch normalizations, and quantizes weights per channel. `SQNR dB` is that of the logits to
fp32's, on images that calibration did not see; `integer` counts the nodes with integer kernels, of all after
onnxruntime's optimization.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, models, quantizer
from benchmarks.ort.cnn_models import MODELS, SIZE, silu
from inc_autotune import ort_ext

COLUMNS = ("model", "form", "ms", "times faster", "SQNR dB", "integer")


def images(count: int, seed: int) -> models.Feed:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)}


def rows_of(name: str, options: argparse.Namespace) -> Iterator[list[Any]]:
    path: Path = options.exports / f"{MODELS[name].__name__}.onnx"
    onnx.save(MODELS[name](), path)
    calibration = [images(10, seed) for seed in range(10)]
    tuned = ort_ext.autotune(path, calibration, session_options=common.options_of(options.threads), progress=False)
    paths = {"fp32": path}
    for form in ("cpu", "qdq"):
        paths[f"int8, {form}"] = path.with_suffix(f".{form}.onnx")
        ort_ext.save(tuned, paths[f"int8, {form}"], form=form)
    if MODELS[name] is silu:
        recipes = {"integer_activations": True}
        threads = common.options_of(options.threads)
        tuned = ort_ext.autotune(path, calibration, session_options=threads, progress=False, recipes=recipes)
        paths["int8, SiLU too"] = path.with_suffix(".silu.onnx")
        ort_ext.save(tuned, paths["int8, SiLU too"], form="cpu")
    prepared = quantizer.preprocessed(path, options.exports)
    paths["onnxruntime static"] = quantizer.static(prepared, calibration, options.exports).path
    sessions = [common.file_session(each, options.threads) for each in paths.values()]
    unseen = images(64, seed=98)
    expected = sessions[0].run(None, unseen)[0]
    seconds = common.session_seconds(sessions, images(options.batch, seed=99), options)
    for (form, each), session, taken in zip(paths.items(), sessions, seconds, strict=True):
        noise = np.square(session.run(None, unseen)[0] - expected).sum()
        ratio = f"{10 * np.log10(np.square(expected).sum() / noise):.1f}" if noise else ""
        yield [name, form, 1e3 * taken, seconds[0] / taken, ratio, integer_nodes(each, options)]


def integer_nodes(path: Path, options: argparse.Namespace) -> str:
    """How many of the nodes of a session compute in integers."""
    session_options = common.options_of(options.threads)()
    session_options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
    types = [node.op_type for node in onnx.load(session_options.optimized_model_filepath).graph.node]
    return f"{sum(each.startswith(('QLinear', 'QGemm', 'MatMulInteger')) for each in types)} of {len(types)}"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--batch", type=int, default=1, help="images in each run")
    parser.add_argument("--model", choices=list(MODELS), action="append", help="repeatable; default: all")
    options = common.parse(parser)
    quantizer.silence()
    rows = [row for name in options.model or MODELS for row in rows_of(name, options)]
    title = f"onnxruntime {onnxruntime.__version__}, {options.threads} thread, {options.batch} x 3 x {SIZE} x {SIZE}"
    measuring.print_table(title, COLUMNS, rows)


if __name__ == "__main__":
    main()
