"""Small recurrent ONNX models, and how close their integer forms come to fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from tests.ort.small_models import GraphWriter, vectors

STEPS, BATCH, FEATURES, HIDDEN = 6, 3, 8, 16
DATA = vectors(4, STEPS, BATCH, FEATURES)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def tagger(
    op_type: str,
    *,
    bias: bool = False,
    lengths: bool = False,
    states: bool = False,
    peepholes: bool = False,
    **attributes: Any,
) -> ModelProto:
    """`x` [steps, batch, features] to `y` [steps, batch, 4], computed from all states and the last ones."""
    graph = GraphWriter()
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op_type] * HIDDEN
    weights = [
        graph.random(f"rnn.{name}", directions, gates, size, scale=size**-0.5)
        for name, size in (("input", FEATURES), ("state", HIDDEN))
    ]
    others = [
        graph.random("rnn.bias", directions, 2 * gates, scale=0.1) if bias else "",
        graph.constant("rnn.lengths", [STEPS, STEPS - 2, 1], np.int32) if lengths else "",
        graph.random("rnn.first", directions, BATCH, HIDDEN) if states else "",
    ]
    if op_type == "LSTM":
        others.append(graph.random("rnn.cell", directions, BATCH, HIDDEN) if states else "")
        others.append(graph.random("rnn.peepholes", directions, 3 * HIDDEN, scale=0.3) if peepholes else "")
    graph.add(op_type, "x", *weights, *others, name="rnn", outputs=2, hidden_size=HIDDEN, **attributes)
    found = []
    for part, output, order, shape in (
        ("all", "rnn.out", [0, 2, 1, 3], [STEPS, BATCH, -1]),
        ("last", "rnn.out1", [1, 0, 2], [BATCH, -1]),
    ):
        merged = graph.add("Transpose", output, perm=order, name=f"{part}.order")
        merged = graph.add("Reshape", merged, graph.constant(f"{part}.shape", shape, np.int64), name=f"{part}.merge")
        found.append(graph.linear(merged, part, directions * HIDDEN, 4))
    graph.add("Add", *found)
    return graph.model({"x": (TensorProto.FLOAT, [STEPS, BATCH, FEATURES])}, 3)


def tune(model: ModelProto, **arguments: Any) -> ort_ext.TunedModel:
    return ort_ext.autotune(model, DATA, sampling_sizes=[16], progress=False, **arguments)


def decibels(model: ModelProto, tuned: ort_ext.TunedModel, form: str) -> float:
    """Signal over error of a form of the tuned model."""
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": DATA[0]})[0]
    error = ort_ext.session(tuned, form=form).run(None, {"x": DATA[0]})[0] - expected
    return float(10 * np.log10((expected**2).sum() / (error**2).sum()))
