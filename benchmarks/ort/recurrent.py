"""Recurrent nets in ONNX Runtime: int8 models of ours and of onnxruntime's own quantizer.

    python benchmarks/ort/recurrent.py

A tagger is an LSTM or GRU with a linear layer behind it, both of random weights, on sequences of 64 vectors.
onnxruntime's quantizer is `quantize_dynamic`, as it is and with weights per channel; it leaves a GRU in fp32. `SQNR dB`
is that of the tags' logits to fp32's.
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
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, quantizer
from inc_autotune import ort_ext

STEPS, TAGS = 64, 32
COLUMNS = ("model", "batch", "form", "ms", "times faster", "MB", "SQNR dB")


def tagger(op_type: str, hidden: int, *, bidirectional: bool = False) -> ModelProto:
    """`x` [64, batch, hidden] through an LSTM or GRU and a linear layer to `y` [64, batch, 32]."""
    generator = np.random.default_rng(0)
    directions, gates = 1 + bidirectional, {"LSTM": 4, "GRU": 3}[op_type] * hidden
    shapes = {
        "lstm.input": (directions, gates, hidden),
        "lstm.state": (directions, gates, hidden),
        "lstm.bias": (directions, 2 * gates),
        "head.weight": (directions * hidden, TAGS),
        "head.bias": (TAGS,),
    }
    weights = [
        numpy_helper.from_array((generator.normal(size=shape) * hidden**-0.5).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    merged = numpy_helper.from_array(np.array([STEPS, -1, directions * hidden]), "merged")
    direction = "bidirectional" if bidirectional else "forward"
    recurrence = ["x", "lstm.input", "lstm.state", "lstm.bias"]
    extra = {"linear_before_reset": 1} if op_type == "GRU" else {}
    nodes = [
        helper.make_node(op_type, recurrence, ["states"], "lstm", hidden_size=hidden, direction=direction, **extra),
        helper.make_node("Transpose", ["states"], ["by_step"], "order", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["by_step", "merged"], ["features"], "merge"),
        helper.make_node("MatMul", ["features", "head.weight"], ["product"], "head"),
        helper.make_node("Add", ["product", "head.bias"], ["y"], "head.add"),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [STEPS, "batch", size])
        for name, size in (("x", hidden), ("y", TAGS))
    )
    graph = helper.make_graph(nodes, "tagger", [x], [y], [*weights, merged])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def vectors(batch: int, hidden: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(STEPS, batch, hidden)).astype(np.float32)}


def rows_of(op_type: str, hidden: int, options: argparse.Namespace, **kind: bool) -> Iterator[list[Any]]:
    name = " ".join([*kind, f"{op_type}, hidden {hidden}"])
    path: Path = options.exports / f"{op_type}{hidden}{''.join(kind)}.onnx"
    onnx.save(tagger(op_type, hidden, **kind), path)
    calibration = [vectors(4, hidden, seed) for seed in range(4)]
    tuned = ort_ext.autotune(path, calibration, session_options=common.options_of(options.threads), progress=False)
    paths = {"fp32": path}
    for form in ("cpu", "qdq"):
        paths[f"int8, {form}"] = path.with_suffix(f".{form}.onnx")
        ort_ext.save(tuned, paths[f"int8, {form}"], form=form)
    for per_channel in (False, True):
        form = f"onnxruntime dynamic{', per channel' if per_channel else ''}"
        paths[form] = quantizer.dynamic(path, options.exports, None, per_channel=per_channel).path
    sessions = [common.file_session(each, options.threads) for each in paths.values()]
    unseen = vectors(16, hidden, seed=98)
    expected = sessions[0].run(None, unseen)[0]
    for batch in (1, 8):
        seconds = common.session_seconds(sessions, vectors(batch, hidden, seed=99), options)
        for (form, each), session, taken in zip(paths.items(), sessions, seconds, strict=True):
            noise = np.square(session.run(None, unseen)[0] - expected).sum()
            ratio = f"{10 * np.log10(np.square(expected).sum() / noise):.1f}" if noise else ""
            size = f"{each.stat().st_size / 1e6:.2f}"
            yield [name, batch, form, 1e3 * taken, seconds[0] / taken, size, ratio]


def main() -> None:
    options = common.parse(common.parser(__doc__))
    quantizer.silence()
    rows = [row for hidden in (256, 1024) for row in rows_of("LSTM", hidden, options)]
    rows += rows_of("LSTM", 256, options, bidirectional=True)
    rows += [row for hidden in (256, 1024) for row in rows_of("GRU", hidden, options)]
    title = f"onnxruntime {onnxruntime.__version__}, {options.threads} thread, {STEPS} steps"
    measuring.print_table(title, COLUMNS, rows)


if __name__ == "__main__":
    main()
