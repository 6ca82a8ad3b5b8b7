"""Where SmoothQuant's division of an activation is computed: in the operator before, or in a Mul of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.graphs import smoothed_alike
from inc_autotune.ort_ext.calibration import QuantizationPlan
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.operators import Operator, after_activation

NORMALIZATIONS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")


@dataclass
class Placement:
    """Where each smoothing scale goes.

    Args:
        node_divisors: scale by the name of a normalization or Mul whose constants are divided by it.
        operator_divisors: scale by the name of a linear operator whose output is divided by it, in weight and bias.
        multiplied: by the name of a linear operator, the tensor to multiply its input from, and the scale.
    """

    node_divisors: dict[str, FloatArray] = field(default_factory=dict)
    operator_divisors: dict[str, FloatArray] = field(default_factory=dict)
    multiplied: dict[str, FloatArray] = field(default_factory=dict)


def place_smoothing(graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan) -> Placement:
    """Fold every scale into the operator before, where every reader of the tensor is smoothed by that very scale.

    Else, as where a LayerNorm's output goes to the residual too, the smoothed operators read a product of the tensor
    and the reciprocal scale, computed once for all of them.
    """
    targets = FoldTargets(graph, operators, plan.output_ranges)
    placement = Placement()
    for scale, group in smoothed_alike(operators, plan.scales):
        names = [each.name for each in group]
        target = targets.of(names) if plan.folding else None
        if isinstance(target, Operator):
            placement.operator_divisors[target.name] = scale
        elif target is not None:
            placement.node_divisors[target.name] = scale
        else:
            placement.multiplied |= dict.fromkeys(names, scale)
    return placement


class FoldTargets:
    """What makes the inputs of linear operators, where that can make them divided by a smoothing scale instead.

    Args:
        graph: the fp32 model.
        operators: of that graph.
        ranged: tensors that are quantized with a range of their own.
    """

    def __init__(self, graph: Graph, operators: Mapping[str, Operator], ranged: Container[str]) -> None:
        self._graph, self._operators = graph, operators
        self._by_output = _divisible(graph, operators, ranged)

    def of(self, names: Sequence[str]) -> Operator | onnx.NodeProto | None:
        """The operator or node before these operators, which read the same tensor and are smoothed alike.

        None where it cannot be divided, or someone else reads the tensor too.
        """
        first = self._operators[names[0]]
        if not _are_all_readers(self._graph, first.input, names):
            return None
        channels = (self._graph.shape(first.weight) or (0,))[-1 if first.transposed else 0]
        return _fold_target(self._graph, self._by_output, first.input, channels)


def _divisible(graph: Graph, operators: Mapping[str, Operator], ranged: Container[str]) -> dict[str, Operator]:
    """Linear operators by output, without those whose output is quantized: its range was calibrated as it is."""
    return {
        each.output: each
        for each in operators.values()
        if each.is_linear and each.output not in ranged and after_activation(graph, each.output) not in ranged
    }


def _are_all_readers(graph: Graph, tensor: str, names: Iterable[str]) -> bool:
    return {node.name for node in graph.consumers[tensor]} == set(names) and tensor not in graph.outputs


def divided_inputs(graph: Graph, node: onnx.NodeProto) -> list[int]:
    """Which inputs of a normalization or Mul are divided when a scale is folded into it."""
    if node.op_type == "Mul":
        return [0 if graph.is_float_constant(node.input[0]) else 1]
    return [index for index in (1, 2) if index < len(node.input) and node.input[index]]


def _fold_target(
    graph: Graph, by_output: Mapping[str, Operator], tensor: str, channels: int
) -> Operator | onnx.NodeProto | None:
    """What can make a tensor divided by one number for each channel of its last axis, instead of the tensor itself."""
    node = graph.producers.get(tensor)
    if node is not None and node.op_type == "Relu" and graph.only_consumer(node.input[0]) is not None:
        # Scales are positive, so they pass a ReLU.
        tensor = node.input[0]
        node = graph.producers.get(tensor)
    if node is None:
        return None
    if tensor in by_output:
        return by_output[tensor]
    if node.op_type in NORMALIZATIONS:
        foldable = all(_fits(graph, node.input[index], channels) for index in divided_inputs(graph, node))
        return node if foldable and sum(map(bool, node.output)) == 1 else None
    if node.op_type == "Mul" and any(_fits(graph, name, channels) for name in node.input):
        return node
    return None


def _fits(graph: Graph, name: str, channels: int) -> bool:
    """Whether a constant has one value for each channel of the last axis."""
    shape = graph.shape(name)
    if not shape or not graph.is_float_constant(name):
        return False
    return shape[-1] == channels and max(shape[:-1], default=1) == 1
