"""Depthwise convolutions, which gain by integers only between other integer convolutions."""

from __future__ import annotations

from collections.abc import Mapping

from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators.discovery import CONVOLUTION, DEPTHWISE, TRANSPOSED_TYPES, Operator

DEPTHWISE_REASON = "integer depthwise convolutions are not faster, except between other integer convolutions"


def depthwise_neighbours(graph: Graph, operators: Mapping[str, Operator]) -> Mapping[str, tuple[str, ...]]:
    """Of each depthwise convolution between convolutions the names of these; others are left out."""
    by_output = {each.output: each for each in operators.values() if each.may_return_integers}
    by_node = {each.node.name: each for each in operators.values() if each.type in (CONVOLUTION, *TRANSPOSED_TYPES)}
    found: dict[str, tuple[str, ...]] = {}
    for operator in operators.values():
        before = by_output.get(operator.input)
        if operator.type != DEPTHWISE or before is None or (before.type == DEPTHWISE and before.name not in found):
            continue
        # A transposed convolution asks for the number of samples too.
        readers = [each for each in graph.consumers.get(operator.output, ()) if each.op != "Shape"]
        if readers and operator.output not in graph.outputs and all(each.name in by_node for each in readers):
            found[operator.name] = (before.name, *(by_node[each.name].name for each in readers))
    return found
