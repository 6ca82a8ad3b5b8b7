"""Tensors that live on an integer grid: outputs of quantized operators, and what onnxruntime computes from them.

A convolution has an integer kernel only where its output is quantized too. Residual additions, pooling and
concatenation between such convolutions then have integer kernels as well, and no data goes back to float in between.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

import onnx

from inc_autotune.ort_ext.graph import Graph, attributes
from inc_autotune.ort_ext.operators import Operator, after_activation, outside_backbone
from inc_autotune.ort_ext.operators.rewriting import has_integer_average
from inc_autotune.ort_ext.target import GraphForm

MOVING_TYPES = frozenset(
    {
        *("Split", "Resize", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
        *("DepthToSpace", "SpaceToDepth"),
    }
)
"""These are on a grid only on the way to an integer kernel: for floats behind them there is nothing to gain."""

SAME_RANGE_TYPES = MOVING_TYPES | {"MaxPool", "Slice", "Pad"}
ACTIVATION_TYPES = ("Sigmoid", "Mul")
"""These are on a grid on request, between integers alone: a SiLU is both. They make nets with it 12 to 20 %
faster and cost accuracy. LeakyRelu and HardSwish in integers are no faster than in float (onnxruntime 1.31)."""

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
    graph: Graph,
    operators: Iterable[Operator],
    form: GraphForm,
    known: Container[str] | None = None,
    *,
    activations: bool = True,
) -> dict[str, GridTensor]:
    """The tensors on a grid where these operators are quantized, in the order of the graph.

    Where only a ReLU or Clip reads an output, the grid is that of its output: the grid ends where the values do, and
    rounding to it does what the ReLU or Clip would.

    Args:
        graph: the model.
        operators: the static ones.
        form: says whose outputs stay in float.
        known: names of the tensors with a known range; others are on no grid of their own. None: all are known.
        activations: whether Sigmoid and Mul may be on one.
    """
    operators = list(operators)
    grid: dict[str, GridTensor] = {}
    owners = {each.output: each.name for each in operators if each.type not in form.float_outputs}
    outside = outside_backbone(graph) if form.backbone_only else frozenset()
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or node.name in outside or node.op_type in form.float_outputs:
            continue
        tensor = node.output[0]
        if not tensor:
            continue
        output = after_activation(graph, tensor)
        has_own = (known is None or output in known) and graph.producers[output].op_type not in form.float_outputs
        read = [name for name in node.input if name in grid]
        if tensor in owners:
            if has_own:
                grid[output] = GridTensor(owners[tensor])
        elif not read:
            continue
        elif _keeps_range(graph, node) and node.input[0] in grid:
            first = grid[node.input[0]]
            same = GridTensor(first.owner, first.same_as or node.input[0])
            grid |= {each: same for each in node.output if each}
        elif has_own and _has_kernel(node, activations) and _all_integers(graph, node, read):
            grid[output] = GridTensor(grid[read[0]].owner)
    names = {each.name for each in operators}
    _part_last_concats(graph, grid, names)
    _end_at_integers(graph, grid, names)
    return grid


def constants_on_grid(graph: Graph, node: onnx.NodeProto, grid: Container[str]) -> list[int]:
    """Which inputs of a node are float constants that are quantized because its other inputs and its output are."""
    if node.op_type not in OWN_RANGE_TYPES or after_activation(graph, node.output[0]) not in grid:
        return []
    return [index for index, name in enumerate(node.input) if graph.is_float_constant(name)]


def _part_last_concats(graph: Graph, grid: dict[str, GridTensor], operators: Container[str]) -> None:
    """Take off the grid a Concat that no operator follows, and what is computed from it.

    At the end of a detector it joins boxes, up to 640, and scores, up to 1, of which nothing would be left on a common
    grid. Nothing is lost: as integers or as floats, the values are copied once.
    """
    followed: set[str] = set()
    for node in reversed(graph.nodes):
        made = _on_grid(graph, node, grid)
        reads_operator_input = node.name in operators or any(tensor in followed for tensor in made)
        if reads_operator_input:
            followed.update(name for name in node.input if name in grid)
    parted: set[str] = set()
    for node in graph.nodes:
        made = _on_grid(graph, node, grid)
        is_last = node.op_type == "Concat" and followed.isdisjoint(made)
        if made and node.name not in operators and (is_last or not parted.isdisjoint(node.input)):
            for tensor in made:
                del grid[tensor]
                parted.add(tensor)


def _on_grid(graph: Graph, node: onnx.NodeProto, grid: Container[str]) -> list[str]:
    """The tensors on a grid that a node makes, the ReLU or Clip behind it included."""
    return [tensor for output in node.output if output and (tensor := after_activation(graph, output)) in grid]


def _end_at_integers(graph: Graph, grid: dict[str, GridTensor], operators: Container[str]) -> None:
    """Take off the grid what only moves values, and activations, with no integer kernel behind them."""
    for node in reversed(graph.nodes):
        if node.op_type in MOVING_TYPES:
            made = [tensor for tensor in node.output if tensor in grid]
        elif node.op_type in ACTIVATION_TYPES:
            made = _on_grid(graph, node, grid)
        else:
            continue
        readers = [reader for tensor in made for reader in graph.consumers.get(tensor, ())]
        if not any(
            reader.name in operators or (reader.output[0] and after_activation(graph, reader.output[0]) in grid)
            for reader in readers
        ):
            for tensor in made:
                del grid[tensor]


def _all_integers(graph: Graph, node: onnx.NodeProto, read: list[str]) -> bool:
    """Whether a node reads integers, or constants that can be such; those without elements have no range."""
    takes_constants = node.op_type in OWN_RANGE_TYPES
    return all(
        name in read or (takes_constants and graph.is_float_constant(name) and 0 not in (graph.shape(name) or ()))
        for name in node.input
    )


def _keeps_range(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node only picks or moves values of its first input, or adds zeros, which every grid has."""
    given = attributes(node)
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] and graph.scalar(node.input[2]) != 0.0:
        return False
    if node.op_type == "Resize" and (given.get("mode", b"nearest") != b"nearest" or given.get("extrapolation_value")):
        return False
    if node.op_type == "MaxPool" and len(node.output) > 1:
        return False  # the places of the largest values are no such values
    return node.op_type in SAME_RANGE_TYPES


def _has_kernel(node: onnx.NodeProto, activations: bool) -> bool:
    """Whether a node that computes new values has a kernel for integers, which is wanted."""
    if node.op_type in ACTIVATION_TYPES:
        return activations
    return node.op_type in OWN_RANGE_TYPES and (node.op_type != "AveragePool" or has_integer_average(node))
