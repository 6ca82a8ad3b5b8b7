"""A SavedModel through tf2onnx and onnxruntime's own quantizer. `tf/speed.py --peer-python` runs this.

Install (Python 3.11, CPU):

    python -m venv peer_tf2onnx
    peer_tf2onnx/bin/pip install tensorflow-cpu==2.21.0 tf2onnx==1.17.0 onnxruntime==1.31.1

The folder holds the SavedModel `for_peers`, and `calibration.npy` and `unseen.npy` with its inputs. Prints one line of
JSON: a list of rows with `form`, `ms`, `times` (faster than TensorFlow in this process, timed in turn), `sqnr` (to
TensorFlow's outputs) and `bytes`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure

BATCH = 8

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--repeat", type=int, default=15)
options = parser.parse_args()
measure.limit_threads(options.threads)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402 - the thread count must be set first
import onnxruntime  # noqa: E402
import tensorflow as tf  # noqa: E402
from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
    shape_inference,
)


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        starts = range(0, len(inputs), BATCH)
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: inputs[i : i + BATCH]} for i in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def convert(folder: Path) -> Path:
    """The SavedModel as ONNX, with shapes inferred, as the quantizer asks for."""
    raw, path = folder / "raw.onnx", folder / "fp32.onnx"
    command = [
        sys.executable,
        "-m",
        "tf2onnx.convert",
        "--saved-model",
        str(folder / "for_peers"),
        "--output",
        str(raw),
    ]
    subprocess.run([*command, "--opset", "18"], check=True, stdout=sys.stderr)
    shape_inference.quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)  # which fails on these
    return path


def quantize(path: Path, name: str, calibration: np.ndarray) -> Path:
    """QDQ, weights per channel; of a model without convolutions MatMul alone, which suits it best."""
    target = path.with_name("int8.onnx")
    import onnx

    kinds = {node.op_type for node in onnx.load(path).graph.node}
    quantize_static(
        str(path),
        str(target),
        _Reader(name, calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=None if "Conv" in kinds else ["MatMul", "Gemm"],
    )
    return target


def session(path: Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def decibels(expected: np.ndarray, found: np.ndarray) -> float:
    wide = expected.astype(np.float64)
    return float(10 * np.log10((wide**2).sum() / ((wide - found) ** 2).sum()))


def main() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    folder = options.folder
    signature = tf.saved_model.load(str(folder / "for_peers")).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    calibration, unseen = (np.load(folder / f"{each}.npy") for each in ("calibration", "unseen"))
    fp32 = convert(folder)
    paths = {"onnxruntime fp32": fp32, "onnxruntime static int8": quantize(fp32, name, calibration)}
    sessions = [session(path) for path in paths.values()]

    def of_tensorflow(batch: Any) -> np.ndarray:
        (output,) = signature(**{name: batch}).values()
        return output.numpy()

    starts = range(0, len(unseen), BATCH)
    expected = np.concatenate([of_tensorflow(tf.constant(unseen[i : i + BATCH])) for i in starts])
    first, constant = {name: unseen[:BATCH]}, tf.constant(unseen[:BATCH])
    calls: list[Any] = [
        lambda: of_tensorflow(constant),
        *(lambda each=each: each.run(None, first) for each in sessions),
    ]
    reference, *seconds = map(statistics.median, measure.interleaved_ms(calls, options.repeat, least_ms=150))
    rows = []
    for (form, path), each, taken in zip(paths.items(), sessions, seconds, strict=True):
        found = np.concatenate([each.run(None, {name: unseen[i : i + BATCH]})[0] for i in starts])
        row = {"form": form, "ms": taken, "times": reference / taken, "sqnr": decibels(expected, found)}
        rows.append({**row, "bytes": path.stat().st_size})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
