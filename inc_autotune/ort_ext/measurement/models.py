"""Speed and size of models, and whether this processor's integer products saturate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from inc_autotune.core.analysis import timing
from inc_autotune.ort_ext.graph.graph_model import GraphModel, embedded_bytes


def session_clock(sessions: Sequence[onnxruntime.InferenceSession]) -> Callable[[], float]:
    """The clock for sessions: the time of this thread, where they all compute in it alone."""
    threads = {session.get_session_options().intra_op_num_threads for session in sessions}
    return timing.clock_of(1 if threads == {1} else 0)


def weight_bytes(model: GraphModel) -> int:
    """Bytes of the model as a file, which are those of its weights but for a small rest."""
    return embedded_bytes(model)


@cache
def needs_reduced_range() -> bool:
    """Whether products of uint8 and int8 saturate on this processor, so that weights must be kept within 7 bits.

    It is tried out: processors without VNNI add two products in 16 bits, which 255 * 127 * 2 does not fit.
    """
    size = 64
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "probe",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [1, size]),
            helper.make_tensor_value_info("w", TensorProto.INT8, [size, size]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"x": np.full((1, size), 255, np.uint8), "w": np.full((size, size), 127, np.int8)}
    return bool((session.run(None, feed)[0] != 255 * 127 * size).any())
