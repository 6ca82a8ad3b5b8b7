"""What operators multiply with their weights, for weights that are rounded by second moments."""

from __future__ import annotations

from collections.abc import Iterable

from inc_autotune.graphs import MomentRows, Patches, Rows
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import CONVOLUTION, DEPTHWISE, Operator


def moment_rows(graph: Graph, operator: Operator) -> MomentRows | None:
    """How the input of an operator becomes rows that its weight multiplies.

    None where its weight is rounded to nearest: of a table, a transposed convolution, one in three dimensions.
    """
    if operator.is_linear:
        return Rows()
    if operator.type not in (CONVOLUTION, DEPTHWISE):
        return None
    given, shape = operator.node.attr, graph.shape(operator.weight) or ()
    padding, ends = given["padding"].s, list(given["explicit_paddings"].list.i)
    around = ((0, 0), (0, 0)) if padding != b"EXPLICIT" else ((ends[2], ends[3]), (ends[4], ends[5]))
    groups = shape[2] if operator.type == DEPTHWISE else operator.groups
    return Patches(
        kernel=_sizes(shape[:2]),
        strides=_sizes(given["strides"].list.i[1:3]),
        dilations=_sizes(given["dilations"].list.i[1:3] or (1, 1)),
        pads="same_upper" if padding == b"SAME" else around,
        groups=int(groups or 1),
        channels_first=False,
    )


def _sizes(values: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(int(each or 0) for each in values)
