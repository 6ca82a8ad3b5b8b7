"""Transposed convolutions, on the integer kernels of ordinary ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.convolution import Convolution, emit_kernel
from inc_autotune.ort_ext.graph import attributes
from inc_autotune.ort_ext.operators import Operator, Phases, find_phases


def emit_transposed_convolution(
    emission: Emission,
    operator: Operator,
    config: OpConfig,
    limits: tuple[float, float],
    output: str,
    output_limits: tuple[float, float] | None,
) -> None:
    """Write a Conv of all phases of the stride, and what interleaves them, in integers too.

    Args:
        emission: the model under construction.
        operator: a ConvTranspose for which `find_phases` finds some.
        config: static.
        limits: smallest and largest value of the operator's input.
        output: name for the float output.
        output_limits: the range that the output is quantized with; None where it stays float.
    """
    graph, builder, name = emission.graph, emission.builder, operator.name
    node = graph.by_name[name]
    phases = find_phases(graph, node)
    assert isinstance(phases, Phases)
    rank = len(phases.strides)
    dilations = attributes(node).get("dilations", [1] * rank)
    convolution = Convolution(
        version=("phases", phases),
        kernel=lambda: phases.kernel(graph.constant(operator.weight), dilations),
        bias=None if operator.bias is None else np.repeat(graph.constant(operator.bias), phases.count),
        attributes={
            "pads": [*phases.before, *phases.after],
            "dilations": list(phases.dilations),
            "group": phases.group,
        },
    )
    moves = _moves(emission, operator, phases)
    result = builder.new(f"{name}.phases") if moves else output
    first = ""
    emit_kernel(emission, operator, convolution, config, limits, result)
    for number, (op_type, others, given) in enumerate(moves, start=1):
        if output_limits is not None:
            integers = builder.new(f"{name}.{op_type}.input")
            if number == 1:
                emission.put_on_grid(integers, result, config.activation, output_limits)
            else:
                emission.put_on_same_grid(integers, result, first)
            first = integers if number == 1 else first
            result = integers
        made = output if number == len(moves) else builder.new(f"{name}.{op_type}.output")
        builder.produce(op_type, [result, *others], [made], builder.new_node(f"{name}.{op_type}"), **given)
        result = made


def _moves(emission: Emission, operator: Operator, phases: Phases) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Types, further inputs and attributes of the nodes that make the output of the phases, which only move values."""
    builder, name, rank = emission.builder, operator.name, len(phases.strides)

    def integers(what: str, value: list[int]) -> str:
        return builder.constant(f"{name}.{what}", np.asarray(value, np.int64))

    moves: list[tuple[str, list[str], dict[str, Any]]] = []
    stride = phases.strides[0]
    if stride > 1 and rank == 2:
        moves.append(("DepthToSpace", [], {"blocksize": stride, "mode": "CRD"}))
    elif stride > 1:
        channels = (emission.graph.shape(operator.weight) or (0, 0))[1] * phases.group
        moves.append(("Reshape", [integers("split", [0, channels, stride, -1])], {}))
        moves.append(("Transpose", [], {"perm": [0, 1, 3, 2]}))
        moves.append(("Reshape", [integers("joined", [0, channels, -1])], {}))
    if any(phases.start) or any(phases.rest):
        ends = [-each or np.iinfo(np.int64).max for each in phases.rest]
        axes = list(range(2, 2 + rank))
        limits = [integers("starts", list(phases.start)), integers("ends", ends), integers("axes", axes)]
        moves.append(("Slice", limits, {}))
    return moves
