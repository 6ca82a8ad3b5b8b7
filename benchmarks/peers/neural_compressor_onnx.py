"""onnx-neural-compressor 1.0 on an ONNX model: static quantization, and autotuning with SmoothQuant.

    python3 -m venv peer_onc
    peer_onc/bin/pip install onnx-neural-compressor==1.0 onnx onnxruntime numpy==1.26.4 prettytable scipy
    peer_onc/bin/python benchmarks/peers/neural_compressor_onnx.py --model M.onnx --data D.npz --output DIR

`benchmarks/ort/peers.py --peer-python peer_onc/bin/python` runs it; prettytable and scipy are dependencies that it does
not declare. `D.npz` holds int64 arrays `calibration.NAME` and `unseen.NAME` for each input of the model. Calibration
samples are padded to one length, since it cannot take several. The score it tunes by is the mean cosine of sentence
embeddings to fp32. Each result is one JSON line: name, path, wall seconds, trials, and whether
the goal was met.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, tuning
from onnxruntime.quantization import QuantFormat, quant_utils

BATCH_SIZE = 8
ALPHAS = [0.3, 0.5, 0.7]

Feed = dict[str, np.ndarray]


class Reader(data_reader.CalibrationDataReader):
    """Batches that can be read again."""

    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.rewind()

    def get_next(self) -> Feed | None:
        return next(self.left, None)

    def rewind(self) -> None:
        self.left = iter(self.feeds)


def batches(archive: Any, part: str) -> list[Feed]:
    arrays = {name.removeprefix(f"{part}."): archive[name] for name in archive.files if name.startswith(f"{part}.")}
    count = len(next(iter(arrays.values())))
    starts = range(0, count - count % BATCH_SIZE, BATCH_SIZE)
    return [{name: value[i : i + BATCH_SIZE] for name, value in arrays.items()} for i in starts]


def embeddings(path: str, feeds: list[Feed]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = []
    for feed in feeds:
        mask = feed["attention_mask"][..., None]
        mean = (session.run(None, feed)[0] * mask).sum(1) / mask.sum(1)
        found.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(found)


def settings(feeds: list[Feed]) -> dict[str, Any]:
    """Of every configuration: MatMul only, uint8 activations, int8 weights per channel."""
    return {
        "calibration_data_reader": Reader(feeds),
        "quant_format": QuantFormat.QDQ,
        "activation_type": quant_utils.QuantType.QUInt8,
        "weight_type": quant_utils.QuantType.QInt8,
        "op_types_to_quantize": ["MatMul"],
        "per_channel": True,
        "calibration_sampling_size": BATCH_SIZE * len(feeds),
    }


def run(
    name: str,
    model: Path,
    target: Path,
    feeds: list[Feed],
    configs: list[Any],
    score: Callable[[str], float],
    loss: float,
) -> dict[str, Any]:
    """Tune over some configurations, until one loses no more than `loss`; the best model seen is saved.

    Where none is good enough it ends the process, which only an exception can stop.
    """
    scores: list[float] = []
    aside = 0.0

    def evaluate(path: str) -> float:
        nonlocal aside
        scores.append(score(path))
        if len(scores) > 1 and scores[-1] == max(scores[1:]):
            started = time.perf_counter()
            onnx.save(onnx.load(path), target)
            aside += time.perf_counter() - started
        return scores[-1]

    started = time.perf_counter()
    try:
        tuning.autotune(
            str(model),
            tuning.TuningConfig(config_set=configs, tolerable_loss=loss),
            evaluate,
            calibration_data_reader=Reader(feeds),
        )
        met = True
    except SystemExit:
        met = False
    seconds = time.perf_counter() - started - aside
    return {"name": name, "path": str(target), "seconds": seconds, "trials": len(scores) - 1, "met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    archive = np.load(options.data)
    feeds, unseen = batches(archive, "calibration"), batches(archive, "unseen")
    expected = embeddings(str(options.model), unseen)

    def score(path: str) -> float:
        return float((embeddings(path, unseen) * expected).sum(1).mean())

    static = config.StaticQuantConfig(**settings(feeds))
    smooth = [config.SmoothQuantConfig(alpha=alpha, **settings(feeds)) for alpha in ALPHAS]
    tasks = {
        "static": ([static], 1.0),
        "autotune, SmoothQuant alpha 0.3, 0.5, 0.7": ([static, *smooth], 0.003),
        "SmoothQuant alpha auto": ([config.SmoothQuantConfig(alpha="auto", **settings(feeds))], 1.0),
    }
    for index, (name, (configs, loss)) in enumerate(tasks.items()):
        target = options.output / f"onnx_neural_compressor_{index}.onnx"
        found = run(name, options.model, target, feeds, configs, score, loss)
        print(f"\n{json.dumps(found)}", flush=True)  # its progress bars end without a line break


if __name__ == "__main__":
    main()
