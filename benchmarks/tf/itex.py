"""SavedModels for Intel Extension for TensorFlow, in an environment that has it: integer kernels, speed, SQNR.

    python3 -m venv old
    old/bin/pip install "numpy<2" "tensorflow==2.15.*" "intel-extension-for-tensorflow[cpu]==2.15.*"
    python benchmarks/tf/itex.py --python old/bin/python

Batch 8, in turn, CPU time of one thread. Integer kernels are counted in what oneDNN Graph says that it computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, models
from benchmarks.tf.common import BATCH
from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db

PROGRAM = Path(__file__).with_name("itex_program.py")
ENVIRONMENT = {"ITEX_TF_CONSTANT_FOLDING": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
COLUMNS = ("model", "operators int8", "integer kernels", "fp32 ms", "int8 ms", "times as fast", "dB")


def run(python: str | Path, inputs: Path, repeat: int, folders: Sequence[Path], **environment: str) -> str:
    """What the program prints for these models."""
    command = [str(python), str(PROGRAM), str(inputs), str(repeat), *map(str, folders)]
    given = {**os.environ, **ENVIRONMENT, **environment}
    given.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def integer_kernels(verbose: str) -> int:
    """Products and convolutions that oneDNN Graph computes in integers, from what it prints of them."""
    fields = [line.split(",") for line in verbose.splitlines() if "graph,exec" in line]
    return len({each[4] for each in fields if each[5].startswith(("quantized_matmul", "quantized_conv"))})


def row(name: str, model: Any, options: Any) -> list[Any]:
    """A model in float32 and in integers."""
    folders = [common.export(model, options.exports / f"{name}_fp32"), options.exports / f"{name}_int8"]
    tuned = tf_ext.autotune(
        model, common.normal_inputs(model, 32, 1), None, smoothquant_args=measuring.AUTO_ALPHA, backend="itex"
    )
    tf_ext.save(tuned, folders[1])
    inputs = options.exports / f"{name}.npy"
    np.save(inputs, common.normal_inputs(model, BATCH, 2))
    seconds = json.loads(run(options.python, inputs, options.repeat, folders).splitlines()[-1])
    kernels = integer_kernels(run(options.python, inputs, 1, folders[1:], ONEDNN_VERBOSE="1"))
    outputs = [np.load(f"{folder}.npy") for folder in folders]
    fp32, int8 = (seconds[str(folder)] * 1e3 for folder in folders)
    quantized = sum(each.dtype == "int8" for each in tuned.tuning_result.operators)
    return [name, quantized, kernels, fp32, int8, fp32 / int8, signal_to_noise_db(*outputs)]


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--python", required=True, help="the interpreter of an environment with the extension")
    given = common.parse(parser)
    found = [row(name, build(), given) for name, build in (("cnn", models.cnn), ("transformer", models.transformer))]
    measuring.print_table("SavedModels in Intel Extension for TensorFlow 2.15", COLUMNS, found)
