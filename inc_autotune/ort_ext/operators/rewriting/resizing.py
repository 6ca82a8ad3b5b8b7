"""Resizes that list some axes, written as resizes of all axes."""

from __future__ import annotations

import numpy as np
import onnx

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import Graph, GraphBuilder, attributes, with_rewritten

_ROI, _SCALES, _SIZES = 1, 2, 3


def with_full_sizes(graph: Graph) -> Graph:
    """Write every Resize whose `axes` choose some dimensions with scales or sizes for all of them.

    Beside an integer convolution onnxruntime (1.31) moves a transposition across the Resize, and reads `axes` as if
    they were all dimensions: the model then cannot be loaded, or fails when it runs. The other dimensions keep their
    scale of 1, or the size that the tensor has.
    """
    found = {node.name for node in graph.nodes if _can_be_full(graph, node)}

    def write(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        rank = graph.rank(node.input[0]) or 0
        axes = np.asarray(attributes(node)["axes"], np.int64) % rank

        def full(index: int, others: Array | str, places: Array) -> None:
            """Put what an input says of some axes in its places among what holds for all others."""
            part, value = node.input[index], f"{node.name}.input_{index}"
            if not isinstance(others, str) and graph.shape(part) is not None:
                others[places] = graph.constant(part)
                changed.input[index] = builder.constant(value, others)
                return
            data = others if isinstance(others, str) else builder.constant(f"{value}.others", others)
            where = builder.constant(f"{value}.places", places)
            changed.input[index] = builder.compute("ScatterElements", [data, where, part], value)

        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        kept = [each for each in node.attribute if each.name != "axes"]
        del changed.attribute[:]
        changed.attribute.extend(kept)
        if _reads_roi(node):
            full(_ROI, np.repeat(np.asarray([0, 1], np.float32), rank), np.concatenate([axes, axes + rank]))
        elif len(node.input) > _ROI:
            changed.input[_ROI] = ""
        if _reads_sizes(node):
            changed.input[_SCALES] = ""  # perhaps one without elements, which old exporters write
            full(_SIZES, builder.compute("Shape", [node.input[0]], f"{node.name}.shape"), axes)
        else:
            full(_SCALES, np.ones(rank, np.float32), axes)
        builder.keep(changed)

    return with_rewritten(graph, found, write)


def _can_be_full(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a Resize with `axes` that can be written without."""
    if node.op_type != "Resize" or node.domain not in ("", "ai.onnx"):
        return False
    given = attributes(node)
    if "axes" not in given or graph.rank(node.input[0]) is None:
        return False
    # The smallest or largest scale of all axes would be another one.
    return bool(given.get("keep_aspect_ratio_policy", b"stretch") == b"stretch")


def _reads_sizes(node: onnx.NodeProto) -> bool:
    return len(node.input) > _SIZES and bool(node.input[_SIZES])


def _reads_roi(node: onnx.NodeProto) -> bool:
    return bool(attributes(node).get("coordinate_transformation_mode") == b"tf_crop_and_resize")
