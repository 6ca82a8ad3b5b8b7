"""Tensors that live on an integer grid: outputs of quantized operators, and what onnxruntime computes from them.

A convolution has an integer kernel only where its output is quantized too. Residual additions, pooling and
concatenation between such convolutions then have integer kernels as well, and no data goes back to float in between.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

import onnx

from inc_autotune.ort_ext.backbone import outside_backbone
from inc_autotune.ort_ext.forms import GraphForm
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator

SAME_RANGE_TYPES = ("MaxPool", "Slice", "Pad")
OWN_RANGE_TYPES = ("Add", "Concat", "GlobalAveragePool", "AveragePool")


@dataclass(frozen=True)
class GridTensor:
    """A tensor on an integer grid.

    Args:
        owner: the operator whose activation type it has.
        same_as: the tensor whose scale and zero point it has; None where it has its own.
    """

    owner: str
    same_as: str | None = None


def find_grid(
    graph: Graph, operators: Iterable[Operator], form: GraphForm, known: Container[str] | None = None
) -> dict[str, GridTensor]:
    """The tensors on a grid where these operators are quantized, in the order of the graph.

    Where only a ReLU reads an output, the grid is that of the ReLU's output: it starts at zero, and the ReLU is free.

    Args:
        graph: the model.
        operators: the static ones.
        form: says whose outputs stay in float.
        known: names of the tensors with a known range; others are on no grid of their own. None: all are known.
    """
    grid: dict[str, GridTensor] = {}
    owners = {each.output: each.name for each in operators if each.type not in form.float_outputs}
    outside = outside_backbone(graph) if form.backbone_only else frozenset()
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or node.name in outside or node.op_type in form.float_outputs:
            continue
        tensor = node.output[0]
        output = after_relu(graph, tensor)
        has_own = (known is None or output in known) and (output == tensor or "Relu" not in form.float_outputs)
        read = [name for name in node.input if name in grid]
        if tensor in owners:
            if has_own:
                grid[output] = GridTensor(owners[tensor])
        elif not read:
            continue
        elif _keeps_range(graph, node) and node.input[0] in grid:
            first = grid[node.input[0]]
            grid[tensor] = GridTensor(first.owner, first.same_as or node.input[0])
        elif has_own and node.op_type in OWN_RANGE_TYPES and _all_integers(graph, node, read):
            grid[output] = GridTensor(grid[read[0]].owner)
    return grid


def constants_on_grid(graph: Graph, node: onnx.NodeProto, grid: Container[str]) -> list[int]:
    """Which inputs of a node are float constants that are quantized because its other inputs and its output are."""
    if node.op_type not in OWN_RANGE_TYPES or after_relu(graph, node.output[0]) not in grid:
        return []
    return [index for index, name in enumerate(node.input) if graph.is_float_constant(name)]


def after_relu(graph: Graph, tensor: str) -> str:
    """The output of the ReLU that alone reads a tensor; the tensor itself where there is none."""
    reader = graph.only_consumer(tensor)
    return str(reader.output[0]) if reader is not None and reader.op_type == "Relu" else tensor


def _all_integers(graph: Graph, node: onnx.NodeProto, read: list[str]) -> bool:
    return all(name in read or graph.is_float_constant(name) for name in node.input)


def _keeps_range(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node only picks values of its first input, or zero, which every grid has."""
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] and graph.scalar(node.input[2]) != 0.0:
        return False
    return node.op_type in SAME_RANGE_TYPES and len(node.output) == 1
