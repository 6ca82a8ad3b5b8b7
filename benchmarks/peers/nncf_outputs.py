"""What a model that NNCF has quantized returns. `rungs.py` and `speed.py` with `--peer-python` run this.

Install (Python 3.11, CPU):

    python -m venv peer_ov
    peer_ov/bin/pip install torch==2.13.0  # the CPU build, which nncf imports
    peer_ov/bin/pip install nncf==3.4.0 openvino==2026.4.1

`MODEL` is an ONNX file, a file of OpenVINO or the folder of a SavedModel. `samples.npz` of `FOLDER` holds
`calibration.NAME` and `unseen.NAME` for each input of the model; `outputs.npy`, the first output for the unseen
samples, is written beside it, and with `--save` the quantized model, `int8.xml`. Settings are those that NNCF
documents: `model_type=TRANSFORMER`, which includes SmoothQuant, where `--transformer` is given; corrections of biases
are part of its default. OpenVINO runs it with the precision hint f32, so that what is not int8 is float32.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import measure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--transformer", action="store_true")
parser.add_argument("--save", action="store_true")
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()
measure.limit_threads(options.threads)
os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

import nncf  # noqa: E402 - the thread count must be set first
import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402

BATCH = 10


def feeds(archive: Any, part: str) -> list[Any]:
    """Batches by input name; of a model with one input the arrays themselves, since a SavedModel's have other names."""
    arrays = {name.removeprefix(f"{part}."): archive[name] for name in archive.files if name.startswith(f"{part}.")}
    starts = range(0, len(next(iter(arrays.values()))), BATCH)
    batches = [{name: value[start : start + BATCH] for name, value in arrays.items()} for start in starts]
    return batches if len(arrays) > 1 else [list(batch.values()) for batch in batches]


def main() -> None:
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": False})
    archive = np.load(options.folder / "samples.npz")
    calibration = feeds(archive, "calibration")
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if options.transformer else {}
    int8 = nncf.quantize(
        core.read_model(options.model), nncf.Dataset(calibration), subset_size=len(calibration), **kind
    )
    compiled = core.compile_model(int8, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = np.concatenate([compiled(feed)[0] for feed in feeds(archive, "unseen")])
    np.save(options.folder / "outputs.npy", outputs)
    if options.save:
        ov.save_model(int8, options.folder / "int8.xml", compress_to_fp16=False)
    print(json.dumps({"peer": f"nncf {version('nncf')}, openvino {version('openvino')}"}))


if __name__ == "__main__":
    main()
