"""Tuning an ONNX model of more than 2 GB, by its path: time and peak memory.

    python benchmarks/ort/large.py [--layers 36]

36 MatMuls of 4,096 x 4,096 (2.4 GB of fp32 weights in one external file), with a ReLU between them, tuned on 16
samples, saved, loaded and run. Each step is a process of its own, so that peaks do not add up. The goal is a peak of at
most twice the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from inc_autotune import ort_ext

WIDTH = 4096
COLUMNS = ("step", "wall s", "CPU s", "peak MiB", "peak over weights", "cosine to fp32")


def write_model(path: Path, layers: int) -> None:
    """A chain of MatMuls; the weights are written one by one."""
    generator = np.random.default_rng(0)
    nodes, initializers = [], []
    with path.with_suffix(".data").open("wb") as file:
        for layer in range(layers):
            weight = TensorProto(name=f"weight{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            weight.data_location = TensorProto.EXTERNAL
            place = {"location": path.with_suffix(".data").name, "offset": file.tell(), "length": 4 * WIDTH * WIDTH}
            for key, value in place.items():
                weight.external_data.add(key=key, value=str(value))
            initializers.append(weight)
            file.write((generator.standard_normal((WIDTH, WIDTH), np.float32) * (2 / WIDTH) ** 0.5).tobytes())
            nodes.append(helper.make_node("MatMul", [f"x{layer}", weight.name], [f"product{layer}"], f"layer{layer}"))
            nodes.append(helper.make_node("Relu", [f"product{layer}"], [f"x{layer + 1}"], f"relu{layer}"))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["batch", WIDTH])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def batches(count: int, first: int = 0) -> list[np.ndarray]:
    return [
        np.random.default_rng(seed).normal(size=(4, WIDTH)).astype(np.float32) for seed in range(first, first + count)
    ]


def fp32_step(folder: Path, threads: int) -> np.ndarray:
    """What anybody pays for running the model: a session of the file."""
    return common.file_session(folder / "large.onnx", threads).run(None, {"x0": batches(1, first=99)[0]})[0]


def autotune_step(folder: Path, threads: int) -> None:
    """Tune without evaluation, and save."""
    tuned = ort_ext.autotune(
        folder / "large.onnx",
        batches(4),
        smoothquant_args=measuring.AUTO_ALPHA,
        session_options=common.options_of(threads),
        progress=False,
    )
    ort_ext.save(tuned, folder / "large.int8.onnx")


def apply_step(folder: Path, _: int) -> None:
    """Build the same model from its recipe, and save it."""
    tuned = ort_ext.apply_recipe(folder / "large.onnx", folder / "large.int8.recipe.yaml")
    ort_ext.save(tuned, folder / "applied.onnx")


def load_step(folder: Path, threads: int) -> np.ndarray:
    """Load the int8 model and run it."""
    session = ort_ext.session(ort_ext.load(folder / "large.int8.onnx"), session_options=common.options_of(threads))
    return session.run(None, {"x0": batches(1, first=99)[0]})[0]


STEPS = {
    "fp32 session": fp32_step,
    "autotune, save": autotune_step,
    "apply_recipe, save": apply_step,
    "load, run": load_step,
}


def run_step(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One step in a new process, which prints what it took as JSON."""
    command = [sys.executable, __file__, "--exports", str(options.exports), "--threads", str(options.threads)]
    printed = subprocess.run([*command, "--step", name], check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def measured(name: str, options: argparse.Namespace) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    output = STEPS[name](options.exports, options.threads)
    taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": measuring.peak_rss()}
    if output is not None:
        np.save(options.exports / f"{name.split()[0].rstrip(',')}.npy", output)
    print(json.dumps(taken))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--step", choices=STEPS, help="only this step, in this process")
    options = common.parse(parser)
    if options.step is not None:
        measured(options.step, options)
        return
    write_model(options.exports / "large.onnx", options.layers)
    weights = 4 * WIDTH * WIDTH * options.layers / 2**20
    rows = []
    for name in STEPS:
        taken = run_step(name, options)
        similar = None
        if name.startswith("load"):
            found, expected = (np.load(options.exports / f"{step}.npy") for step in ("load", "fp32"))
            similar = f"{(found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected):.4f}"
        rows.append([name, taken["wall"], taken["cpu"], f"{taken['peak']:.0f}", taken["peak"] / weights, similar])
    measuring.print_table(f"{options.layers} layers, {weights:.0f} MiB of fp32 weights", COLUMNS, rows)


if __name__ == "__main__":
    main()
