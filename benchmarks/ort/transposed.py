"""Transposed convolutions between ordinary ones in ONNX Runtime, of two and of three dimensions.

    python benchmarks/ort/transposed.py

Three operators of random weights, one image. `kept` has the ordinary convolutions in int8 and the transposed one in
fp32, as onnxruntime's quantizer leaves it; in `int8` all three are integers. Both are shown, whatever tuning takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from inc_autotune import ort_ext
from inc_autotune.ort_ext.adaptor import OrtAdaptor

COLUMNS = ("channels", "kernel", "strides", "input", "fp32, ms", "kept", "int8", "SQNR dB")

SHAPES = [
    # channels in and out, kernel, strides, padding, height and so on
    (64, 32, 2, (2, 2), 0, 32),
    (64, 32, 4, (2, 2), 1, 32),
    (64, 32, 3, (1, 2), 1, 32),
    (64, 32, 2, (2, 2, 2), 0, 12),
    (128, 64, 2, (2, 2, 2), 0, 6),
    (64, 32, 4, (2, 2, 2), 1, 12),
    (32, 16, 3, (1, 2, 2), 1, 12),
]


def upsampler(inputs: int, outputs: int, kernel: int, strides: tuple[int, ...], padding: int, size: int) -> ModelProto:
    generator, rank = np.random.default_rng(0), len(strides)
    shapes = {
        "first.weight": (inputs, inputs, *[3] * rank),
        "up.weight": (inputs, outputs, *[kernel] * rank),
        "last.weight": (16, outputs, *[1] * rank),
    }
    weights = [
        numpy_helper.from_array((generator.normal(size=shape) * inputs**-0.5).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    pads = [padding] * (2 * rank)
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"], "first", pads=[1] * (2 * rank)),
        helper.make_node("Relu", ["a"], ["b"], "first.relu"),
        helper.make_node("ConvTranspose", ["b", "up.weight"], ["c"], "up", strides=strides, pads=pads),
        helper.make_node("Relu", ["c"], ["d"], "up.relu"),
        helper.make_node("Conv", ["d", "last.weight"], ["y"], "last"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs, *[size] * rank])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "upsampler", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def row_of(shape: tuple[Any, ...], options: Any) -> list[Any]:
    inputs, outputs, kernel, strides, _, size = shape
    path: Path = options.exports / f"{'_'.join(map(str, shape))}.onnx"
    onnx.save(upsampler(*shape), path)
    feeds = [
        {"x": np.random.default_rng(seed).normal(size=(1, inputs, *[size] * len(strides))).astype(np.float32)}
        for seed in range(5)
    ]
    paths = [path]
    for dtype in ("fp32", "int8"):
        tuned = ort_ext.autotune(
            path,
            feeds[:-1],
            op_type_dict={"ConvTranspose": {"weight": {"dtype": [dtype]}}},
            session_options=common.options_of(options.threads),
            progress=False,
        )
        paths.append(path.with_suffix(f".{dtype}.onnx"))
        ort_ext.save(tuned, paths[-1], form="cpu")
    sessions = [common.file_session(each, options.threads) for each in paths]
    first, *others = common.session_seconds(sessions, feeds[-1], options)
    expected, found = (session.run(None, feeds[-1])[0] for session in (sessions[0], sessions[-1]))
    noise = 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())
    times = [f"{first / each:.2f}" for each in others]
    geometry = ["x".join(map(str, each)) for each in (strides, [size] * len(strides))]
    return [f"{inputs} to {outputs}", kernel, *geometry, 1e3 * first, *times, f"{noise:.1f}"]


def main() -> None:
    options = common.parse(common.parser(__doc__, repeat=7))
    # What is not faster is left in fp32; here it shall be seen.
    OrtAdaptor.unit_speeds = lambda *arguments, **others: {}  # type: ignore[method-assign]
    rows = [row_of(shape, options) for shape in SHAPES]
    title = f"onnxruntime {onnxruntime.__version__}, {options.threads} thread"
    measuring.print_table(title, COLUMNS, rows)


if __name__ == "__main__":
    main()
