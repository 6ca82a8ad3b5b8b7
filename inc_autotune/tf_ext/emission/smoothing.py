"""Where SmoothQuant's division of an activation is computed: in the operators before, or in a Mul of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import FloatArray
from inc_autotune.graphs import smoothed_alike
from inc_autotune.tf_ext.calibration import QuantizationPlan
from inc_autotune.tf_ext.graph import COPIES, Graph, tensor_name
from inc_autotune.tf_ext.operators import Operator

HOMOGENEOUS = (None, "Relu", "LeakyRelu")
"""Activation functions that a positive factor passes through."""


@dataclass
class Placement:
    """Where each smoothing scale goes.

    Attributes:
        constants: scale by (node name, index of the input) of constants that are divided by it.
        operators: scale by the name of an integer operator whose output is divided by it.
        multiplied: scale by the name of a linear operator whose input is multiplied by its reciprocal.
    """

    constants: dict[tuple[str, int], FloatArray] = field(default_factory=dict)
    operators: dict[str, FloatArray] = field(default_factory=dict)
    multiplied: dict[str, FloatArray] = field(default_factory=dict)


def place_smoothing(graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan) -> Placement:
    """Fold every scale into what comes before, where every reader of the tensor is smoothed by that very scale.

    Else, as where a LayerNormalization's output goes to the residual too, the smoothed operators read a product of the
    tensor and the reciprocal scale, computed once for all of them.
    """
    integer = [each for each in operators.values() if plan.is_integer(each.name)]
    linear = {each.output: each for each in integer if each.is_linear}
    fused = {name for each in integer for name in each.nodes}
    placement = Placement()
    for scale, group in smoothed_alike(operators, plan.scales):
        tensor = group[0].input
        whole = plan.choices.folding and _read_only_by(graph, tensor, {each.node.name for each in group})
        maker = linear.get(tensor) if whole else None
        constants = _divisible_constants(graph, tensor, len(scale)) if whole else None
        if maker is not None and maker.function in HOMOGENEOUS and maker.features == len(scale):
            placement.operators[maker.name] = scale
        # What is fused into an integer operator is not written any more, so its constants cannot be divided.
        elif constants is not None and fused.isdisjoint(node for node, _ in constants):
            placement.constants |= dict.fromkeys(constants, scale)
        else:
            placement.multiplied |= {each.name: scale for each in group}
    return placement


def _read_only_by(graph: Graph, tensor: str, readers: set[str]) -> bool:
    """Whether nobody else reads the values of a tensor, reshaped or not; its shape does not count."""
    left = [tensor]
    while left:
        each = left.pop()
        if each in graph.outputs:
            return False
        for node in graph.consumers.get(each, ()):
            if node.name in readers or node.op == "Shape":
                continue
            if node.op not in ("Reshape", *COPIES) or tensor_name(node.input[0]) != each:
                return False
            left.append(node.name)
    return True


def _divisible_constants(graph: Graph, tensor: str, channels: int) -> list[tuple[str, int]] | None:
    """The constants whose division divides a tensor, one number for each channel of its last axis."""
    node = graph.producer(tensor)
    if node.op == "Mul":
        index = _constant_input(graph, node, channels)
        return None if index is None else [(node.name, index)]
    return _layer_normalization(graph, node, channels) if node.op == "AddV2" else None


def _layer_normalization(graph: Graph, last: NodeDef, channels: int) -> list[tuple[str, int]] | None:
    """Gamma and beta of `x * m + (-mean * m + beta)` with `m = gamma / deviation`."""
    for scaled_name, shift_name in (last.input, reversed(last.input)):
        scaled, shift = graph.producer(scaled_name), graph.producer(shift_name)
        if (scaled.op, shift.op) != ("Mul", "AddV2") or graph.only_consumer(scaled.name) is None:
            continue
        beta = _constant_input(graph, shift, channels)
        if beta is None or graph.only_consumer(shift.name) is None:
            continue
        centre = graph.producer(shift.input[1 - beta])
        if centre.op != "Mul" or graph.only_consumer(centre.name) is None:
            continue
        for factor in {tensor_name(each) for each in scaled.input} & {tensor_name(each) for each in centre.input}:
            node = graph.producer(factor)
            gamma = _constant_input(graph, node, channels) if node.op == "Mul" else None
            readers = {each.name for each in graph.consumers[factor]}
            if gamma is not None and readers == {scaled.name, centre.name} and factor not in graph.outputs:
                return [(node.name, gamma), (shift.name, beta)]
    return None


def _constant_input(graph: Graph, node: NodeDef, channels: int) -> int | None:
    """Index of the input that is a constant with one number for each channel of the last axis."""
    for index, tensor in enumerate(node.input[:2]):
        value = graph.constant(tensor_name(tensor))
        if value is not None and value.shape[-1:] == (channels,) and value.size == channels:
            return index
    return None
