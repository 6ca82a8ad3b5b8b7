"""Whether verdicts about speed are the same in every run on a busy machine.

    python benchmarks/ort/speed_verdicts.py [--threads 1 2]

A model of products around the line where int8 stops paying is tuned again and again while other processes compute.
Every set of operators that a run keeps in fp32 is printed with the number of runs that gave it: one line is one answer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import answers
from benchmarks.ort import common
from inc_autotune import ort_ext
from inc_autotune.core.result import TuningResult

SIZES = {"wide": (512, 512), "narrow": (512, 8), "expand": (8, 512), "tail": (512, 1)}


def shapes() -> onnx.ModelProto:
    """Products with wide and narrow weights, from four times as fast in int8 to slower."""
    generator = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for name, size in SIZES.items():
        weights.append(numpy_helper.from_array(generator.normal(size=size).astype(np.float32) / 16, f"{name}.weight"))
        nodes.append(helper.make_node("MatMul", [x, f"{name}.weight"], [f"{name}.out"], name=name))
        nodes.append(helper.make_node("Tanh", [f"{name}.out"], [f"{name}.tanh"]))
        x = f"{name}.tanh"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])
    made = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "shapes", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main() -> None:
    given = answers.parser(__doc__).parse_args()
    model = shapes()
    data = [np.random.default_rng(seed).normal(size=(768, 512)).astype(np.float32) for seed in range(4)]
    warnings.simplefilter("ignore")
    answers.print_header()
    with answers.busy(given.load):
        for threads in given.threads:
            session_options = common.options_of(threads)

            def tune(session_options: Callable[[], onnxruntime.SessionOptions] = session_options) -> TuningResult:
                tuned = ort_ext.autotune(
                    model, data, session_options=session_options, example_inputs=data[0], progress=False
                )
                return tuned.tuning_result

            answers.print_answers(threads, given.runs, tune)


if __name__ == "__main__":
    main()
