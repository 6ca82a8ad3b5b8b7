"""Pads that list some axes, written as pads of all axes."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, with_inputs, with_rewritten

_PADS, _AXES = 1, 3


def with_full_pads(graph: Graph) -> Graph:
    """Write every Pad whose constant `axes` choose some dimensions with pads for all of them, which means the same.

    Beside an integer convolution onnxruntime (1.31) moves a transposition across the Pad, and reads `axes` as if they
    were all dimensions: the model then fails when it runs. The new `axes` list all dimensions instead of being left
    out, since onnxruntime makes a Pad with zeros and without `axes` part of the MaxPool behind it, which pads with the
    smallest value there is.
    """
    found = {node.name: pads for node in graph.nodes if (pads := _full_pads(graph, node)) is not None}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        full = found[node.name]
        pads = builder.constant(f"{node.name}.pads", full)
        axes = builder.constant(f"{node.name}.axes", np.arange(len(full) // 2, dtype=np.int64))
        builder.keep(with_inputs(node, {_PADS: pads, _AXES: axes}))

    return with_rewritten(graph, found, write)


def _full_pads(graph: Graph, node: onnx.NodeProto) -> Array | None:
    """Pads before all dimensions, then after them, int64 [2 * rank]; None if the node is no Pad with constant `axes`,
    or the rank is not known."""
    if node.op_type != "Pad" or node.domain not in ("", "ai.onnx") or len(node.input) <= _AXES or not node.input[_AXES]:
        return None
    rank = graph.rank(node.input[0])
    if rank is None or any(graph.shape(node.input[index]) is None for index in (_PADS, _AXES)):
        return None
    axes = graph.constant(node.input[_AXES]).reshape(-1)
    full = np.zeros((2, rank), np.int64)
    full[:, axes] = graph.constant(node.input[_PADS]).reshape(2, len(axes))
    return full.reshape(-1)
