"""Shapes as tensors, and reshaping to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from inc_autotune.tf_ext.graph.builder import GraphBuilder
from inc_autotune.tf_ext.graph.graph import Graph


def shape_like(
    graph: Graph,
    builder: GraphBuilder,
    tensor: str,
    ends: Sequence[int],
    name: str,
    *,
    dropped: int = 1,
    dtype: tf.DType = tf.float32,
    known: Sequence[int | None] | None = None,
) -> str:
    """Add the shape of a tensor with other sizes in the last dimensions; a constant if at most one size is unknown.

    Args:
        graph: the old graph, with the shapes that are known.
        builder: of the new graph.
        tensor: a tensor of the new graph, or of the old graph under the same name.
        ends: sizes of the last dimensions.
        name: prefix of new names.
        dropped: number of last dimensions of `tensor` that are replaced by `ends`.
        dtype: of `tensor`.
        known: its shape, where it is of the new graph; None: as far as the old graph knows.

    Returns:
        Name of an int32 tensor with the shape.
    """
    if known is None and tensor in graph.by_name:
        known = graph.shape(tensor)
    if known is not None and known[:-dropped].count(None) <= 1:
        sizes = [-1 if size is None else size for size in known[:-dropped]]
        return builder.constant(f"{name}/shape", np.array([*sizes, *ends], np.int32))
    whole = builder.compute("Shape", [tensor], f"{name}/input_shape", T=dtype, out_type=tf.int32)
    bounds = [
        builder.constant(f"{name}/{part}", np.array([value], np.int32))
        for part, value in (("begin", 0), ("end", -dropped), ("stride", 1))
    ]
    leading = builder.compute(
        "StridedSlice",
        [whole, *bounds],
        f"{name}/leading",
        T=tf.int32,
        Index=tf.int32,
        begin_mask=1,
        end_mask=0,
        ellipsis_mask=0,
        new_axis_mask=0,
        shrink_axis_mask=0,
    )
    last = builder.constant(f"{name}/features", np.array(ends, np.int32))
    axis = builder.constant(f"{name}/axis", np.array(0, np.int32))
    return builder.compute("ConcatV2", [leading, last, axis], f"{name}/shape", N=2, T=tf.int32, Tidx=tf.int32)


def reshape(builder: GraphBuilder, tensor: str, shape: str, name: str, dtype: tf.DType = tf.float32) -> str:
    """Add a Reshape, and return its name, which is `builder.new(name)`."""
    return builder.compute("Reshape", [tensor, shape], name, T=dtype, Tshape=tf.int32)
